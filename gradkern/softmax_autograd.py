"""How the operators of softmax meet autograd: the router of `activation_autograd`, for rows.

The Functions are those of :mod:`gradkern.activation_autograd` in everything but the derivatives:
the output is always what is saved, and the second derivatives are made of torch's operations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.autograd.forward_ad import _set_fwd_grad_enabled

from gradkern.activation_autograd import is_transformed
from gradkern.softmax import Kind


def _batch_first(in_dims: tuple[int | None, ...], tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """The tensors of a vmap rule, all with the batch in dimension 0."""
    size = next(t.shape[d] for t, d in zip(tensors, in_dims, strict=True) if d is not None)
    return [
        t.expand(size, *t.shape) if d is None else t.movedim(d, 0)
        for t, d in zip(tensors, in_dims, strict=True)
    ]


def _outer_tangents() -> Any:
    """Forward AD for torch's operations in a `jvp`.

    It is off there, so that the tangents of an outer level would silently be lost. The tangents of
    this level must not come in: `_primals`.
    """
    return _set_fwd_grad_enabled(True)


def _primals(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """Saved tensors without their tangents of this level."""
    return [forward_ad.unpack_dual(tensor, level=0).primal for tensor in tensors]


# ---- what backward computes, differentiable once more ------------------------------------------


class _Backward(Function):
    """(gradient, output) -> the gradient of the input."""

    @staticmethod
    def forward(grad: Tensor, output: Tensor, kind: Kind, dim: int) -> Tensor:
        result: Tensor = kind.backward(grad, output, dim)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, saved, ctx.kind, ctx.dim = inputs
        ctx.save_for_backward(grad, saved)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        return _gradients_of_backward(_Backward, ctx, outer)


class _TransformableBackward(_Backward):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _Backward.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        return _gradients_of_backward(_TransformableBackward, ctx, outer)

    @staticmethod
    def jvp(ctx: Any, grad_tangent: Tensor | None, output_tangent: Tensor | None, *_: Any) -> Any:
        with _outer_tangents():
            grad, output = _primals(ctx.saved_tensors)
            parts = []
            if grad_tangent is not None:
                parts.append(_TransformableBackward.apply(grad_tangent, output, ctx.kind, ctx.dim))
            if output_tangent is not None:
                parts.append(ctx.kind.push_output(output_tangent, grad, output, ctx.dim))
            return sum(parts[1:], parts[0])

    @staticmethod
    def vmap(info: Any, in_dims: Any, grad: Tensor, output: Tensor, kind: Kind, dim: int) -> Any:
        together = _batch_first(in_dims[:2], (grad, output))
        return _TransformableBackward.apply(*together, kind, dim), 0


def _gradients_of_backward(
    function: type[_Backward], ctx: Any, outer: Tensor
) -> tuple[Tensor | None, ...]:
    grad, output = ctx.saved_tensors
    kind, dim = ctx.kind, ctx.dim

    def backward(g: Tensor, y: Tensor, d: int) -> Tensor:
        result: Tensor = function.apply(g, y, kind, d)
        return result

    of_grad = kind.push(outer, output, dim, backward) if ctx.needs_input_grad[0] else None
    of_output = kind.pull_output(outer, grad, output, dim) if ctx.needs_input_grad[1] else None
    return of_grad, of_output, None, None


# ---- the value ---------------------------------------------------------------------------------


class _Eager(Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, kind: Kind, dim: int) -> Tensor:
        output: Tensor = kind.value(input, dim)
        ctx.save_for_backward(output)
        ctx.kind, ctx.dim = kind, dim
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (output,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            return _Backward.apply(grad, output, ctx.kind, ctx.dim), None, None
        return ctx.kind.backward(grad, output, ctx.dim), None, None


class _Traceable(Function):
    @staticmethod
    def forward(input: Tensor, kind: Kind, dim: int) -> Tensor:
        output: Tensor = kind.value(input, dim)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.kind, ctx.dim = inputs
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (output,) = ctx.saved_tensors
        return ctx.kind.backward(grad, output, ctx.dim), None, None


class _Transformable(_Traceable):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _Traceable.setup_context(ctx, inputs, output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (output,) = ctx.saved_tensors
        return _TransformableBackward.apply(grad, output, ctx.kind, ctx.dim), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Any:
        kind = ctx.kind

        def backward(g: Tensor, y: Tensor, d: int) -> Tensor:
            result: Tensor = _TransformableBackward.apply(g, y, kind, d)
            return result

        with _outer_tangents():
            (output,) = _primals(ctx.saved_tensors)
            return kind.push(tangent, output, ctx.dim, backward)

    @staticmethod
    def vmap(info: Any, in_dims: Any, input: Tensor, kind: Kind, dim: int) -> Any:
        return _Transformable.apply(input.movedim(in_dims[0], 0), kind, dim), 0


def normalise(kind: Kind, input: Tensor, dim: int) -> Tensor:
    """Softmax or its logarithm along a dimension, differentiable in whatever way is asked for.

    Args:
        kind: which.
        input: a tensor that our operators accept, of at least one dimension.
        dim: the dimension, counted from the end (negative), so that a batch in front does not move
            it.

    Returns:
        A tensor like ``input``.

    Example:
        >>> from gradkern.softmax import LOG_SOFTMAX
        >>> x = torch.zeros(2, requires_grad=True)
        >>> normalise(LOG_SOFTMAX, x, -1)[0].backward()
        >>> x.grad
        tensor([ 0.5000, -0.5000])
    """
    result: Tensor
    if torch.compiler.is_compiling():
        result = _Traceable.apply(input, kind, dim)
    elif is_transformed():
        result = _Transformable.apply(input, kind, dim)
    elif input.requires_grad and torch.is_grad_enabled():
        result = _Eager.apply(input, kind, dim)
    else:
        result = kind.value(input, dim)
    return result
