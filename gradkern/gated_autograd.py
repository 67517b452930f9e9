"""How the gated activations' operators meet autograd.

The first derivative is one operator, one pass over memory. Higher ones, functorch's transformations
and forward AD go through the activation of the gate and torch's product, which have them all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gradkern.activation_autograd import activate, is_transformed, times_derivative
from gradkern.gated import Gated


def _composed(gate: Tensor, up: Tensor, gated: Gated) -> Tensor:
    return activate(gated.activation, gate, (), False) * up


def _composed_backward(
    grad: Tensor, gate: Tensor, up: Tensor, gated: Gated
) -> tuple[Tensor, Tensor]:
    """The gradients of gate and up, differentiable once more."""
    of_gate = times_derivative(grad * up, gate, gated.activation, ())
    return of_gate, grad * activate(gated.activation, gate, (), False)


class _Eager(Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, gated: Gated) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.gated = gated
        output: Tensor = gated.value(gate, up)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            return *_composed_backward(grad, gate, up, ctx.gated), None
        return *ctx.gated.backward(grad, gate, up), None


class _EagerSplit(Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, gated: Gated) -> Tensor:
        ctx.save_for_backward(input)
        ctx.gated = gated
        output: Tensor = gated.split(input)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (input,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            gate, up = input.chunk(2, -1)
            return torch.cat(_composed_backward(grad, gate, up, ctx.gated), -1), None
        return ctx.gated.split_backward(grad, input), None


class _Traceable(Function):
    @staticmethod
    def forward(gate: Tensor, up: Tensor, gated: Gated) -> Tensor:
        output: Tensor = gated.value(gate, up)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        gate, up, ctx.gated = inputs
        ctx.save_for_backward(gate, up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        of_gate, of_up = ctx.gated.backward(grad, gate, up)
        return of_gate, of_up, None


class _TraceableSplit(Function):
    @staticmethod
    def forward(input: Tensor, gated: Gated) -> Tensor:
        output: Tensor = gated.split(input)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, ctx.gated = inputs
        ctx.save_for_backward(input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (input,) = ctx.saved_tensors
        return ctx.gated.split_backward(grad, input), None


def open_gate(gated: Gated, gate: Tensor, up: Tensor) -> Tensor:
    """``act(gate) * up``, differentiable in whatever way is asked for.

    Args:
        gated: the gated activation.
        gate, up: tensors that our operators accept, of one shape and dtype.

    Returns:
        A tensor like ``gate``.

    Example:
        >>> from gradkern.gated import GATED
        >>> gate = torch.ones(1, requires_grad=True)
        >>> open_gate(GATED["reglu"], gate, torch.full((1,), 3.0)).backward()
        >>> gate.grad
        tensor([3.])
    """
    result: Tensor
    if torch.compiler.is_compiling():
        result = _Traceable.apply(gate, up, gated)
    elif is_transformed():
        result = _composed(gate, up, gated)
    elif (gate.requires_grad or up.requires_grad) and torch.is_grad_enabled():
        result = _Eager.apply(gate, up, gated)
    else:
        result = gated.value(gate, up)
    return result


def open_gate_of_halves(gated: Gated, input: Tensor) -> Tensor:
    """The same, of the two halves of a tensor's last dimension.

    Example:
        >>> from gradkern.gated import GATED
        >>> open_gate_of_halves(GATED["reglu"], torch.tensor([1.0, -1.0, 2.0, 3.0]))
        tensor([2., 0.])
    """
    result: Tensor
    if torch.compiler.is_compiling():
        result = _TraceableSplit.apply(input, gated)
    elif is_transformed():
        gate, up = input.chunk(2, -1)
        result = _composed(gate, up, gated)
    elif input.requires_grad and torch.is_grad_enabled():
        result = _EagerSplit.apply(input, gated)
    else:
        result = gated.split(input)
    return result
