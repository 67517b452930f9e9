"""The activations with a parameter for each channel, as they are in the compiled library.

Each is written once, in ``csrc/formulas/channelwise_activations.h``: an activation of the table
after a bias, and PReLU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradkern import _core
from gradkern import _load as _load  # registers the operators
from gradkern.activation_autograd import activate, times_derivative
from gradkern.activations import Activation, activation


class Channelwise:
    """One activation of an element and its channel's parameter, with its operators.

    Attributes:
        name: as a function.
        activation: the row of the table that it is made of.
        weight: what its parameter is called.
        value: the operator ``(input, weight)``.
        backward: the operator ``(grad_output, input, weight)``, which gives both gradients.

    Example:
        >>> from gradkern.channelwise import CHANNELWISE
        >>> CHANNELWISE["prelu"].value(torch.tensor([-1.0, 2.0]), torch.tensor([0.5]))
        tensor([-0.5000,  2.0000])
    """

    def __init__(self, name: str, activation: Activation, weight: str) -> None:
        self.name = name
        self.activation = activation
        self.weight = weight
        forward = getattr(torch.ops.gradkern, name)
        backward = getattr(torch.ops.gradkern, f"{name}_backward")
        # The overloads, looked up once: an attribute chain through torch.ops costs .45 us a call.
        self.value: torch._ops.OpOverload = forward.default
        self.value_out: torch._ops.OpOverload = forward.out
        self.backward: torch._ops.OpOverload = backward.default
        self.backward_out: torch._ops.OpOverload = backward.out

    def compose(self, input: Tensor, weight: Tensor) -> Tensor:
        """The value by operations that functorch and forward AD know."""
        return activate(self.activation, input + weight, (), False)

    def compose_backward(
        self, grad: Tensor, input: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both gradients, differentiable once more."""
        of_input = times_derivative(grad, input + weight, self.activation, ())
        return of_input, of_input.sum_to_size(weight.shape)

    def __repr__(self) -> str:
        return f"Channelwise({self.name})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _channelwise, (self.name,)


class _Prelu(Channelwise):
    def compose(self, input: Tensor, weight: Tensor) -> Tensor:
        return torch.prelu(input, weight)

    def compose_backward(
        self, grad: Tensor, input: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        slopes = weight
        if weight.numel() > 1:
            slopes = weight.view(-1, *[1] * (input.dim() - 2))
        positive = input > 0
        of_slopes = torch.where(positive, 0, input * grad)
        while of_slopes.dim() > slopes.dim() and of_slopes.dim() > 0:
            of_slopes = of_slopes.sum(0)
        of_slopes = of_slopes.sum_to_size(slopes.shape)
        return torch.where(positive, grad, slopes * grad), of_slopes.reshape(weight.shape)


CHANNELWISE: dict[str, Channelwise] = {
    name: (_Prelu if name == "prelu" else Channelwise)(name, activation(of), weight)
    for name, of, weight in _core.channelwise_activations
}


def _channelwise(name: str) -> Channelwise:
    return CHANNELWISE[name]


def _register_fakes(entry: Channelwise) -> None:
    """What each operator gives for tensors that have no data."""

    def value(*tensors: Tensor) -> Tensor:
        return torch.empty_like(tensors[0])

    def backward(grad_output: Tensor, *saved: Tensor) -> tuple[Tensor, Tensor]:
        input, weight = saved
        return torch.empty_like(input), weight.new_empty(weight.shape)

    def nothing(*arguments: Any, **keywords: Any) -> None:
        return None

    torch.library.register_fake(f"gradkern::{entry.name}", value)
    torch.library.register_fake(f"gradkern::{entry.name}.out", nothing)
    torch.library.register_fake(f"gradkern::{entry.name}_backward", backward)
    torch.library.register_fake(f"gradkern::{entry.name}_backward.out", nothing)


for _entry in CHANNELWISE.values():
    _register_fakes(_entry)
