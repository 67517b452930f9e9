"""RReLU: its operators, and how they meet autograd.

The slopes are a function of a seed, a tensor on the device: it is drawn without waiting for the
device, and it, not the slopes, is kept for backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gradkern import _load as _load  # registers the operators
from gradkern.activation_autograd import require_no_leaf

value: torch._ops.OpOverload = torch.ops.gradkern.random_rrelu.default
value_out: torch._ops.OpOverload = torch.ops.gradkern.random_rrelu.out
backward: torch._ops.OpOverload = torch.ops.gradkern.random_rrelu_backward.default
backward_out: torch._ops.OpOverload = torch.ops.gradkern.random_rrelu_backward.out


def _fake_value(input: Tensor, seed: Tensor, lower: float, upper: float) -> Tensor:
    return torch.empty_like(input)


def _fake_backward(
    grad_output: Tensor, saved: Tensor, seed: Tensor, lower: float, upper: float
) -> Tensor:
    return torch.empty_like(saved)


def _nothing(*arguments: Any, **keywords: Any) -> None:
    return None


torch.library.register_fake("gradkern::random_rrelu", _fake_value)
torch.library.register_fake("gradkern::random_rrelu_backward", _fake_backward)
torch.library.register_fake("gradkern::random_rrelu.out", _nothing)
torch.library.register_fake("gradkern::random_rrelu_backward.out", _nothing)


class _Backward(Function):
    """(grad, saved) -> grad * slope: linear in grad, constant in saved."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, saved: Tensor, seed: Tensor, lower: float, upper: float
    ) -> Tensor:
        ctx.save_for_backward(saved, seed)
        ctx.bounds = lower, upper
        result: Tensor = backward(grad, saved, seed, lower, upper)
        return result

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        return _Backward.apply(outer, *ctx.saved_tensors, *ctx.bounds), None, None, None, None


class _Eager(Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, seed: Tensor, lower: float, upper: float) -> Tensor:
        ctx.save_for_backward(input, seed)
        ctx.bounds = lower, upper
        output: Tensor = value(input, seed, lower, upper)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _Backward.apply(grad, *ctx.saved_tensors, *ctx.bounds), None, None, None


class _InPlace(Function):
    """With slopes that keep the sign, the output tells where the input was positive."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, seed: Tensor, lower: float, upper: float) -> Tensor:
        value_out(input, seed, lower, upper, out=input)
        ctx.mark_dirty(input)
        ctx.save_for_backward(input, seed)
        ctx.bounds = lower, upper
        return input

    backward = _Eager.backward


class _Traceable(Function):
    @staticmethod
    def forward(input: Tensor, seed: Tensor, lower: float, upper: float) -> Tensor:
        output: Tensor = value(input, seed, lower, upper)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, seed, lower, upper = inputs
        ctx.bounds = lower, upper
        ctx.save_for_backward(input, seed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, seed = ctx.saved_tensors
        return backward(grad, input, seed, *ctx.bounds), None, None, None


def rectify(input: Tensor, seed: Tensor, lower: float, upper: float) -> Tensor:
    """RReLU with the slopes of a seed.

    Args:
        input: a tensor that our operators accept.
        seed: one int64 number on its device.
        lower, upper: the bounds of the slopes.

    Returns:
        A tensor like ``input``.

    Example:
        >>> seed = torch.tensor(7)
        >>> rectify(torch.tensor([1.0, -1.0]), seed, 0.25, 0.25)
        tensor([ 1.0000, -0.2500])
    """
    result: Tensor
    if torch.compiler.is_compiling():
        result = _Traceable.apply(input, seed, lower, upper)
    elif input.requires_grad and torch.is_grad_enabled():
        result = _Eager.apply(input, seed, lower, upper)
    else:
        result = value(input, seed, lower, upper)
    return result


def rectify_in_place(input: Tensor, seed: Tensor, lower: float, upper: float) -> Tensor:
    """The same, over the input's memory.

    Returns:
        ``input``.

    Raises:
        RuntimeError: ``input`` is a leaf that requires grad, or a view of one.

    Example:
        >>> x = torch.tensor([1.0, -1.0])
        >>> rectify_in_place(x, torch.tensor(7), 0.25, 0.25) is x
        True
    """
    if not (input.requires_grad and torch.is_grad_enabled()):
        value_out(input, seed, lower, upper, out=input)
        torch.autograd.graph.increment_version(input)
        return input
    if torch.compiler.is_compiling() or lower < 0:
        return input.copy_(rectify(input.clone(), seed, lower, upper))
    require_no_leaf(input)
    result: Tensor = _InPlace.apply(input, seed, lower, upper)
    return result
