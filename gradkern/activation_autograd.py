"""How the activations' operators meet autograd: one router for all rows and all transformations.

The operators themselves have no formula registered: `register_autograd` would cost 4 us on every
call, with or without a gradient. `activate` chooses by what is going on:

- `torch.compile` or export is tracing: a Function without `jvp`, which Dynamo refuses;
- a functorch transformation or forward-mode AD: a Function with `jvp` and a rule for `vmap`;
- a gradient is wanted: an old-style Function (its context is the forward's own), the fastest;
- else the bare operator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from gradkern.activations import Activation

_Parameters = tuple[float, ...]


def is_transformed() -> bool:
    """Whether a functorch transformation or forward-mode AD is going on."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _times_derivative(
    grad: Tensor, saved: Tensor, row: Activation, parameters: _Parameters, of_output: bool
) -> Tensor:
    """grad * dy/dx by the operator alone."""
    operator = row.backward_of_output if of_output else row.backward
    result: Tensor = operator(grad, saved, *parameters)
    return result


def _times_second(
    grad: Tensor, saved: Tensor, row: Activation, parameters: _Parameters, of_output: bool
) -> Tensor:
    """grad * d/dsaved (dy/dx) by the operator alone."""
    operator = row.second_of_output if of_output else row.second
    result: Tensor = operator(grad, saved, *parameters)
    return result


def _together(in_dims: tuple[int | None, ...], tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """The batched tensors of a vmap rule, all with the batch in dimension 0."""
    size = next(t.shape[d] for t, d in zip(tensors, in_dims, strict=True) if d is not None)
    return [
        t.expand(size, *t.shape) if d is None else t.movedim(d, 0)
        for t, d in zip(tensors, in_dims, strict=True)
    ]


# ---- what backward computes, differentiable once more ------------------------------------------


class _Backward(Function):
    """(grad, saved) -> grad * dy/dx."""

    @staticmethod
    def forward(
        grad: Tensor, saved: Tensor, row: Activation, parameters: _Parameters, of_output: bool
    ) -> Tensor:
        return _times_derivative(grad, saved, row, parameters, of_output)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, saved, ctx.row, ctx.parameters, ctx.of_output = inputs
        ctx.save_for_backward(grad, saved)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        grad, saved = ctx.saved_tensors
        rest = ctx.row, ctx.parameters, ctx.of_output
        # Not `once_differentiable`, which looks at the gradients alone: a third derivative would be
        # silently without the part that comes through `saved`.
        of_grad = _Backward.apply(outer, saved, *rest) if ctx.needs_input_grad[0] else None
        of_saved = _Second.apply(outer * grad, saved, *rest) if ctx.needs_input_grad[1] else None
        return of_grad, of_saved, None, None, None


class _TransformableBackward(_Backward):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _Backward.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        grad, saved = ctx.saved_tensors
        rest = ctx.row, ctx.parameters, ctx.of_output
        of_grad = _TransformableBackward.apply(outer, saved, *rest)
        return of_grad, _Second.apply(outer * grad, saved, *rest), None, None, None

    @staticmethod
    def jvp(ctx: Any, grad_tangent: Tensor | None, saved_tangent: Tensor | None, *_: Any) -> Any:
        grad, saved = ctx.saved_tensors
        rest = ctx.row, ctx.parameters, ctx.of_output
        parts = []
        if grad_tangent is not None:
            parts.append(_TransformableBackward.apply(grad_tangent, saved, *rest))
        if saved_tangent is not None:
            parts.append(_Second.apply(saved_tangent * grad, saved, *rest))
        return sum(parts[1:], parts[0])

    @staticmethod
    def vmap(info: Any, in_dims: Any, grad: Tensor, saved: Tensor, *rest: Any) -> Any:
        return _TransformableBackward.apply(*_together(in_dims[:2], (grad, saved)), *rest), 0


class _Second(Function):
    """(grad, saved) -> grad * d/dsaved (dy/dx); the last derivative there is."""

    @staticmethod
    def forward(
        grad: Tensor, saved: Tensor, row: Activation, parameters: _Parameters, of_output: bool
    ) -> Tensor:
        return _times_second(grad, saved, row, parameters, of_output)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name = inputs[2].name

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> Any:
        raise NotImplementedError(f"gradkern has no third derivative of {ctx.name}")

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(f"gradkern has no third derivative of {ctx.name}")

    @staticmethod
    def vmap(info: Any, in_dims: Any, grad: Tensor, saved: Tensor, *rest: Any) -> Any:
        return _Second.apply(*_together(in_dims[:2], (grad, saved)), *rest), 0


# ---- the value ---------------------------------------------------------------------------------


def _backward(ctx: Any, grad: Tensor) -> Tensor:
    (saved,) = ctx.saved_tensors
    rest = ctx.row, ctx.parameters, ctx.of_output
    if torch.is_grad_enabled():  # create_graph=True
        result: Tensor = _Backward.apply(grad, saved, *rest)
        return result
    return _times_derivative(grad, saved, *rest)


class _Eager(Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, row: Activation, parameters: _Parameters, of_output: bool
    ) -> Tensor:
        output: Tensor = row.value(input, *parameters)
        ctx.save_for_backward(output if of_output else input)
        ctx.row, ctx.parameters, ctx.of_output = row, parameters, of_output
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad), None, None, None


class _EagerWithStats(Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        row: Activation,
        parameters: _Parameters,
        of_output: bool,
        channel_dim: int | None,
    ) -> tuple[Tensor, Tensor]:
        output, stats = row.with_stats(input, *parameters, channel_dim)
        ctx.save_for_backward(output if of_output else input)
        ctx.row, ctx.parameters, ctx.of_output = row, parameters, of_output
        ctx.mark_non_differentiable(stats)
        return output, stats

    @staticmethod
    def backward(ctx: Any, grad: Tensor, of_stats: None) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad), None, None, None, None


class _InPlace(Function):
    """For functions that save their output, which is the input's memory afterwards."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, row: Activation, parameters: _Parameters) -> Tensor:
        row.value_(input, *parameters)
        ctx.mark_dirty(input)
        ctx.save_for_backward(input)
        ctx.row, ctx.parameters, ctx.of_output = row, parameters, True
        return input

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad), None, None


class _Traceable(Function):
    @staticmethod
    def forward(input: Tensor, row: Activation, parameters: _Parameters, of_output: bool) -> Tensor:
        output: Tensor = row.value(input, *parameters)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, ctx.row, ctx.parameters, ctx.of_output = inputs
        ctx.save_for_backward(output if ctx.of_output else input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (saved,) = ctx.saved_tensors
        result = _times_derivative(grad, saved, ctx.row, ctx.parameters, ctx.of_output)
        return result, None, None, None


class _Transformable(_Traceable):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _Traceable.setup_context(ctx, inputs, output)
        ctx.save_for_forward(output if ctx.of_output else inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (saved,) = ctx.saved_tensors
        rest = ctx.row, ctx.parameters, ctx.of_output
        return _TransformableBackward.apply(grad, saved, *rest), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Any:
        (saved,) = ctx.saved_tensors
        return _TransformableBackward.apply(tangent, saved, ctx.row, ctx.parameters, ctx.of_output)

    @staticmethod
    def vmap(info: Any, in_dims: Any, input: Tensor, *rest: Any) -> Any:
        return _Transformable.apply(input, *rest), in_dims[0]


def activate(row: Activation, input: Tensor, parameters: _Parameters, of_output: bool) -> Tensor:
    """The value of an activation, differentiable in whatever way is asked for.

    Args:
        row: the activation.
        input: a tensor that our operators accept.
        parameters: the row's parameters.
        of_output: save the output for backward, and not the input.

    Returns:
        A tensor like ``input``.

    Example:
        >>> from gradkern.activations import activation
        >>> x = torch.zeros(1, requires_grad=True)
        >>> activate(activation("sigmoid"), x, (), True).backward()
        >>> x.grad
        tensor([0.2500])
    """
    result: Tensor
    if torch.compiler.is_compiling():
        result = _Traceable.apply(input, row, parameters, of_output)
    elif is_transformed():
        result = _Transformable.apply(input, row, parameters, of_output)
    elif input.requires_grad and torch.is_grad_enabled():
        result = _Eager.apply(input, row, parameters, of_output)
    else:
        result = row.value(input, *parameters)
    return result


def times_derivative(
    grad: Tensor, input: Tensor, row: Activation, parameters: _Parameters
) -> Tensor:
    """``grad * dy/dx`` at the input, differentiable once more.

    Example:
        >>> from gradkern.activations import activation
        >>> times_derivative(torch.ones(1), torch.zeros(1), activation("sigmoid"), ())
        tensor([0.2500])
    """
    result: Tensor = _Backward.apply(grad, input, row, parameters, False)
    return result


def require_no_leaf(input: Tensor) -> None:
    """Refuses a tensor that can't be written, as native does: before anything is.

    ``mark_dirty`` would say so afterwards.

    Raises:
        RuntimeError: ``input``, which requires grad, is a leaf or a view of one.

    Example:
        >>> require_no_leaf(torch.ones(1, requires_grad=True) * 2)
    """
    base = input._base
    if input.is_leaf or (base is not None and base.is_leaf and base.requires_grad):
        kind = "a leaf Variable" if input.is_leaf else "a view of a leaf Variable"
        raise RuntimeError(f"{kind} that requires grad is being used in an in-place operation.")


def activate_in_place(
    row: Activation, input: Tensor, parameters: _Parameters, of_output: bool
) -> Tensor:
    """The same, over the input's memory.

    Returns:
        ``input``.

    Raises:
        RuntimeError: ``input`` is a leaf that requires grad, or a view of one.

    Example:
        >>> from gradkern.activations import activation
        >>> x = torch.tensor([-1.0, 2.0])
        >>> activate_in_place(activation("relu"), x, (), True) is x, x.tolist()
        (True, [0.0, 2.0])
    """
    transformed = not torch.compiler.is_compiling() and is_transformed()
    if not transformed and not (input.requires_grad and torch.is_grad_enabled()):
        row.value_(input, *parameters)
        torch.autograd.graph.increment_version(input)
        return input
    if not torch.compiler.is_compiling() and input.requires_grad and torch.is_grad_enabled():
        require_no_leaf(input)
    if transformed or not of_output:
        # What is saved must stay as it is, and have its own place in the graph.
        kept = input if of_output else input.clone()
        return input.copy_(activate(row, kept, parameters, of_output))
    result: Tensor = _InPlace.apply(input, row, parameters)
    return result


def activate_with_stats(
    row: Activation,
    input: Tensor,
    parameters: _Parameters,
    of_output: bool,
    channel_dim: int | None,
) -> tuple[Tensor, Tensor]:
    """The value, differentiable, and the statistics, which are not.

    Example:
        >>> from gradkern.activations import activation
        >>> y, values = activate_with_stats(activation("relu"), torch.ones(3), (), True, None)
        >>> values.shape
        torch.Size([8])
    """
    result: tuple[Tensor, Tensor]
    if input.requires_grad and torch.is_grad_enabled():
        result = _EagerWithStats.apply(input, row, parameters, of_output, channel_dim)
    else:
        result = row.with_stats(input, *parameters, channel_dim)
    return result
