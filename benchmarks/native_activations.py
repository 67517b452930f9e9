"""Native's own calls for the table's activations, into preallocated tensors.

Where native has no such call for a backward (mish, hardswish) or none at all (softsign,
squared_relu), there is no row; forward, what a user would write in torch calls stands in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805

Call = Callable[[], Any]

# (x, out, spare) -> a call
_FORWARD: dict[str, Callable[[Any, Any, Any], Any]] = {
    "sigmoid": lambda x, out, spare: torch.sigmoid(x, out=out),
    "tanh": lambda x, out, spare: torch.tanh(x, out=out),
    "relu": lambda x, out, spare: torch.clamp_min(x, 0, out=out),
    "leaky_relu": lambda x, out, spare: aten.leaky_relu.out(x, 0.01, out=out),
    "elu": lambda x, out, spare: aten.elu.out(x, 1, 1, 1, out=out),
    "selu": lambda x, out, spare: aten.elu.out(x, _SELU_ALPHA, _SELU_SCALE, 1, out=out),
    "celu": lambda x, out, spare: aten.elu.out(x, 1, 1, 1, out=out),
    "gelu": lambda x, out, spare: aten.gelu.out(x, out=out),
    "gelu_tanh": lambda x, out, spare: aten.gelu.out(x, approximate="tanh", out=out),
    "silu": lambda x, out, spare: aten.silu.out(x, out=out),
    "mish": lambda x, out, spare: aten.mish.out(x, out=out),
    "softplus": lambda x, out, spare: aten.softplus.out(x, 1, 20, out=out),
    "softsign": lambda x, out, spare: torch.div(x, torch.abs(x, out=spare).add_(1), out=out),
    "hardtanh": lambda x, out, spare: aten.hardtanh.out(x, -1, 1, out=out),
    "relu6": lambda x, out, spare: aten.hardtanh.out(x, 0, 6, out=out),
    "hardsigmoid": lambda x, out, spare: aten.hardsigmoid.out(x, out=out),
    "hardswish": lambda x, out, spare: aten.hardswish.out(x, out=out),
    "logsigmoid": lambda x, out, spare: aten.log_sigmoid_forward.output(
        x, output=out, buffer=spare
    ),
    "squared_relu": lambda x, out, spare: torch.clamp_min(x, 0, out=out).square_(),
}

# (grad, saved, out, spare) -> a call
_BACKWARD: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "sigmoid": lambda g, y, out, spare: aten.sigmoid_backward.grad_input(g, y, grad_input=out),
    "tanh": lambda g, y, out, spare: aten.tanh_backward.grad_input(g, y, grad_input=out),
    "relu": lambda g, y, out, spare: aten.threshold_backward.grad_input(g, y, 0, grad_input=out),
    "leaky_relu": lambda g, x, out, spare: aten.leaky_relu_backward.grad_input(
        g, x, 0.01, False, grad_input=out
    ),
    "elu": lambda g, y, out, spare: aten.elu_backward.grad_input(
        g, 1, 1, 1, True, y, grad_input=out
    ),
    "selu": lambda g, y, out, spare: aten.elu_backward.grad_input(
        g, _SELU_ALPHA, _SELU_SCALE, 1, True, y, grad_input=out
    ),
    "celu": lambda g, y, out, spare: aten.elu_backward.grad_input(
        g, 1, 1, 1, True, y, grad_input=out
    ),
    "gelu": lambda g, x, out, spare: aten.gelu_backward.grad_input(g, x, grad_input=out),
    "gelu_tanh": lambda g, x, out, spare: aten.gelu_backward.grad_input(
        g, x, approximate="tanh", grad_input=out
    ),
    "silu": lambda g, x, out, spare: aten.silu_backward.grad_input(g, x, grad_input=out),
    "softplus": lambda g, x, out, spare: aten.softplus_backward.grad_input(
        g, x, 1, 20, grad_input=out
    ),
    "hardtanh": lambda g, x, out, spare: aten.hardtanh_backward.grad_input(
        g, x, -1, 1, grad_input=out
    ),
    "relu6": lambda g, x, out, spare: aten.hardtanh_backward.grad_input(g, x, 0, 6, grad_input=out),
    "hardsigmoid": lambda g, x, out, spare: aten.hardsigmoid_backward.grad_input(
        g, x, grad_input=out
    ),
    # `spare` holds exp(-|x|), as native's forward leaves it on the CPU.
    "logsigmoid": lambda g, x, out, spare: aten.log_sigmoid_backward.grad_input(
        g, x, spare, grad_input=out
    ),
}


def forward_call(name: str, x: torch.Tensor, out: torch.Tensor, spare: torch.Tensor) -> Call:
    """Native's value of `x` into `out`; `spare` is another tensor like it."""
    function = _FORWARD[name]
    return lambda: function(x, out, spare)


def has_backward(name: str) -> bool:
    """Whether native has this backward into a preallocated tensor."""
    return name in _BACKWARD


def backward_call(
    name: str, grad: torch.Tensor, saved: torch.Tensor, out: torch.Tensor, spare: torch.Tensor
) -> Call:
    """Native's gradient into `out`, from the input or output that both sides save."""
    function = _BACKWARD[name]
    if name == "logsigmoid":
        torch.exp(-saved.abs(), out=spare)
    return lambda: function(grad, saved, out, spare)
