"""The operators of softmax and log_softmax, their fake kernels, and their derivatives.

The first derivative is an operator, from the output of the forward pass. The second ones are made
of torch's operations, and are therefore as differentiable as these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradkern import _load as _load  # registers the operators

# (gradient, output, dim) -> the gradient of the input
Backward = Callable[[Tensor, Tensor, int], Tensor]


class Kind:
    """Softmax or its logarithm: the operators, and what is differentiated by hand.

    Attributes:
        name: as a function.
        value, value_out: the operators ``(input, dim)``.
        backward, backward_out: the operators ``(grad_output, output, dim)``.

    Example:
        >>> from gradkern.softmax import SOFTMAX
        >>> SOFTMAX.value(torch.zeros(4), 0).tolist()
        [0.25, 0.25, 0.25, 0.25]
    """

    name: str

    def __init__(self) -> None:
        forward = getattr(torch.ops.gradkern, self.name)
        backward = getattr(torch.ops.gradkern, f"{self.name}_backward")
        # The overloads, looked up once: an attribute chain through torch.ops costs .45 us a call.
        self.value: torch._ops.OpOverload = forward.default
        self.value_out: torch._ops.OpOverload = forward.out
        self.backward: torch._ops.OpOverload = backward.default
        self.backward_out: torch._ops.OpOverload = backward.out

    def push(self, tangent: Tensor, output: Tensor, dim: int, backward: Backward) -> Tensor:
        """The derivative of the value along a tangent of the input.

        It is also what backward, which is linear in the gradient, has for its own gradient.
        """
        raise NotImplementedError

    def pull_output(self, outer: Tensor, grad: Tensor, output: Tensor, dim: int) -> Tensor:
        """The gradient, for ``output``, of backward's result with the gradient ``outer``."""
        raise NotImplementedError

    def push_output(self, tangent: Tensor, grad: Tensor, output: Tensor, dim: int) -> Tensor:
        """The derivative of backward's result along a tangent of ``output``."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"Kind({self.name})"


class _Softmax(Kind):
    """Backward is ``(g - sum(g * y)) * y``."""

    name = "softmax"

    def push(self, tangent: Tensor, output: Tensor, dim: int, backward: Backward) -> Tensor:
        return backward(tangent, output, dim)  # the Jacobian is symmetric

    def pull_output(self, outer: Tensor, grad: Tensor, output: Tensor, dim: int) -> Tensor:
        centred = grad - (grad * output).sum(dim, keepdim=True)
        return outer * centred - grad * (outer * output).sum(dim, keepdim=True)

    def push_output(self, tangent: Tensor, grad: Tensor, output: Tensor, dim: int) -> Tensor:
        centred = grad - (grad * output).sum(dim, keepdim=True)
        return tangent * centred - output * (grad * tangent).sum(dim, keepdim=True)


class _LogSoftmax(Kind):
    """Backward is ``g - exp(y) * sum(g)``."""

    name = "log_softmax"

    def push(self, tangent: Tensor, output: Tensor, dim: int, backward: Backward) -> Tensor:
        return tangent - (tangent * output.exp()).sum(dim, keepdim=True)

    def pull_output(self, outer: Tensor, grad: Tensor, output: Tensor, dim: int) -> Tensor:
        return -outer * output.exp() * grad.sum(dim, keepdim=True)

    def push_output(self, tangent: Tensor, grad: Tensor, output: Tensor, dim: int) -> Tensor:
        return self.pull_output(tangent, grad, output, dim)  # one number for each element


SOFTMAX: Kind = _Softmax()
LOG_SOFTMAX: Kind = _LogSoftmax()


def _register_fakes(kind: Kind) -> None:
    """What each operator gives for tensors that have no data."""

    def forward(input: Tensor, dim: int) -> Tensor:
        return torch.empty_like(input)

    def backward(grad_output: Tensor, output: Tensor, dim: int) -> Tensor:
        return torch.empty_like(output)

    def nothing(*arguments: Any, **keywords: Any) -> None:
        return None

    torch.library.register_fake(f"gradkern::{kind.name}", forward)
    torch.library.register_fake(f"gradkern::{kind.name}.out", nothing)
    torch.library.register_fake(f"gradkern::{kind.name}_backward", backward)
    torch.library.register_fake(f"gradkern::{kind.name}_backward.out", nothing)


for _kind in (SOFTMAX, LOG_SOFTMAX):
    _register_fakes(_kind)
