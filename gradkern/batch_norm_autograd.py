"""How the operators of batch normalisation meet autograd.

Backward computes the normalised values again from the input, so that nothing between the input and
the activation's value is kept; or from the output, so that not even the input is. Second
derivatives are those of the same computation in torch's operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from gradkern import batch_norm as ops
from gradkern.batch_norm import FusedActivation


@dataclass(frozen=True)
class BatchNormPlan:
    """What is computed, beside the tensors.

    Attributes:
        eps: is added to the variance.
        activation: comes after the normalisation and the addition of the residual.
        memory_efficient: whether backward keeps the output, and no input.
        with_stats: whether the output is measured in the pass that writes it, in training.
    """

    eps: float
    activation: FusedActivation
    memory_efficient: bool = False
    with_stats: bool = False

    @property
    def arguments(self) -> tuple[int, float]:
        """The activation, as operators of forward take it."""
        return self.activation.index, self.activation.parameter

    @property
    def gradient_arguments(self) -> tuple[int, float]:
        """The activation, as operators of backward take it."""
        if self.memory_efficient:
            return ops.OF_OUTPUT[self.activation.name], self.activation.parameter
        return self.arguments

    @property
    def training_operator(self) -> Any:
        """What normalises by the batch's own statistics."""
        return ops.training_with_stats if self.with_stats else ops.training

    def kept(self, input: Tensor, output: Tensor) -> Tensor:
        """What backward computes the normalised values from."""
        return output if self.memory_efficient else input


class Normalised(NamedTuple):
    """What a normalisation gives.

    Attributes:
        output: the value, differentiable.
        mean, invstd: the mean and 1 / standard deviation that it used, float64, not differentiable;
            None where native computed them.
        output_stats: the statistics of the value, where the plan asks for them: float64 numbers, as
            in :class:`gradkern.ActivationStats`.
    """

    output: Tensor
    mean: Tensor | None = None
    invstd: Tensor | None = None
    output_stats: Tensor | None = None


def channels_of(input: Tensor, values: Tensor) -> Tensor:
    """Values of the channels in a shape that broadcasts with the input."""
    return values.view(1, -1, *[1] * (input.dim() - 2))


def composed(
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: tuple[Tensor, Tensor] | None,
    plan: BatchNormPlan,
) -> Tensor:
    """The same in torch's operations, for derivatives of derivatives.

    Args:
        input, residual, weight, bias: the tensors.
        statistics: mean and 1 / standard deviation, float64 constants; None: those of the input.
        plan: the rest.
    """
    dtype = input.dtype
    if weight is not None:
        dtype = torch.promote_types(dtype, weight.dtype)
    x = input.to(dtype)
    if statistics is None:
        over = [d for d in range(x.dim()) if d != 1]
        centred = x - x.mean(over, keepdim=True)
        xhat = centred * (centred.square().mean(over, keepdim=True) + plan.eps).rsqrt()
    else:
        mean, invstd = (channels_of(x, s.to(dtype)) for s in statistics)
        xhat = (x - mean) * invstd
    z = xhat if weight is None else xhat * channels_of(x, weight.to(dtype))
    if bias is not None:
        z = z + channels_of(x, bias.to(dtype))
    if residual is not None:
        z = z + residual
    return plan.activation(z).to(input.dtype)


def _composed_gradients(
    grad: Tensor,
    tensors: Sequence[Tensor | None],
    needed: Sequence[bool],
    statistics: tuple[Tensor, Tensor] | None,
    plan: BatchNormPlan,
) -> list[Tensor | None]:
    """The gradients of (input, residual, weight, bias), as differentiable as torch's operations."""
    if plan.memory_efficient:
        raise RuntimeError(
            "memory_efficient is True; it must be False for gradients of gradients "
            "(create_graph=True): they follow from the input, which was not kept"
        )
    input, residual, weight, bias = tensors
    assert input is not None
    with torch.enable_grad():
        output = composed(input, residual, weight, bias, statistics, plan)
        wanted = [t for t, need in zip(tensors, needed, strict=True) if need and t is not None]
        found = iter(torch.autograd.grad(output, wanted, grad, create_graph=True))
    return [
        next(found) if need and t is not None else None
        for t, need in zip(tensors, needed, strict=True)
    ]


def _like(gradient: Tensor, parameter: Tensor | None, needed: bool) -> Tensor | None:
    return gradient.to(parameter.dtype) if parameter is not None and needed else None


def _keep(ctx: Any, tensors: tuple[Any, ...], output: Tensor, mean: Tensor, invstd: Tensor) -> None:
    input, residual, weight, bias = tensors
    # The gradient of a residual before which nothing bends is the output's own.
    ctx.passes_residual = residual is not None and ctx.plan.activation.name == "identity"
    kept = ctx.plan.kept(input, output)
    ctx.save_for_backward(
        kept, None if ctx.passes_residual else residual, weight, bias, mean, invstd
    )


def _gradients_of_training(ctx: Any, grad: Tensor) -> list[Tensor | None]:
    """Of (input, residual, weight, bias)."""
    # `input` is the output where the plan says so.
    input, residual, weight, bias, mean, invstd = ctx.saved_tensors
    needed = ctx.needs_input_grad[:4]
    plan: BatchNormPlan = ctx.plan
    passed = grad if ctx.passes_residual and needed[1] else None
    if torch.is_grad_enabled():  # create_graph=True
        result = _composed_gradients(grad, (input, residual, weight, bias), needed, None, plan)
        return [result[0], passed if passed is not None else result[1], *result[2:]]
    of_input, of_residual, sum_dz, sum_dz_xhat = ops.backward(
        grad,
        input,
        residual,
        weight,
        bias,
        mean,
        invstd,
        *plan.gradient_arguments,
        needed[1] and passed is None,
    )
    if passed is None and needed[1]:
        passed = of_residual
    return [
        of_input if needed[0] else None,
        passed,
        _like(sum_dz_xhat, weight, needed[2]),
        _like(sum_dz, bias, needed[3]),
    ]


def _gradients_of_evaluation(ctx: Any, grad: Tensor) -> list[Tensor | None]:
    """Of (input, residual, weight, bias); mean and invstd are constants."""
    # `input` is the output where the plan says so.
    input, residual, weight, bias, mean, invstd = ctx.saved_tensors
    needed = ctx.needs_input_grad[:4]
    plan: BatchNormPlan = ctx.plan
    passed = grad if ctx.passes_residual and needed[1] else None
    if torch.is_grad_enabled():
        result = _composed_gradients(
            grad, (input, residual, weight, bias), needed, (mean, invstd), plan
        )
        return [result[0], passed if passed is not None else result[1], *result[2:]]
    saved = input, residual, weight, bias, mean, invstd
    of_input = of_weight = of_bias = None
    if (needed[2] and weight is not None) or (needed[3] and bias is not None):
        sum_dz, sum_dz_xhat = ops.sums(grad, *saved, *plan.gradient_arguments)
        of_weight, of_bias = _like(sum_dz_xhat, weight, needed[2]), _like(sum_dz, bias, needed[3])
    if needed[0] or (needed[1] and passed is None):
        # count = 0: the statistics don't depend on the input, and the sums are not looked at.
        of_input, of_residual = ops.input_gradient(
            grad, *saved, mean, mean, 0.0, *plan.gradient_arguments, needed[1] and passed is None
        )
        if needed[1] and passed is None:
            passed = of_residual
    return [of_input if needed[0] else None, passed, of_weight, of_bias]


class _Training(Function):
    """(input, residual, weight, bias) -> value, mean, invstd (, the value's statistics); moves the
    running statistics."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        plan: BatchNormPlan,
    ) -> tuple[Tensor, ...]:
        output, *statistics = plan.training_operator(
            input,
            residual,
            weight,
            bias,
            running_mean,
            running_var,
            momentum,
            plan.eps,
            *plan.arguments,
        )
        ctx.plan = plan
        _keep(ctx, (input, residual, weight, bias), output, *statistics[:2])
        ctx.mark_non_differentiable(*statistics)
        return output, *statistics

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        return *_gradients_of_training(ctx, grad), None, None, None, None


class _TraceableTraining(Function):
    """The same without running statistics: Dynamo traces no Function that changes a buffer."""

    @staticmethod
    def forward(
        input: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        plan: BatchNormPlan,
    ) -> tuple[Tensor, ...]:
        result: tuple[Tensor, ...] = plan.training_operator(
            input, residual, weight, bias, None, None, 0.0, plan.eps, *plan.arguments
        )
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.plan = inputs
        value, *statistics = output
        _keep(ctx, tuple(tensors), value, *statistics[:2])
        ctx.mark_non_differentiable(*statistics)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        return *_gradients_of_training(ctx, grad), None


class _Evaluation(Function):
    """(input, residual, weight, bias, mean, invstd) -> value."""

    @staticmethod
    def forward(
        input: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        invstd: Tensor,
        plan: BatchNormPlan,
    ) -> Tensor:
        output: Tensor = ops.normalise(input, residual, weight, bias, mean, invstd, *plan.arguments)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, mean, invstd, ctx.plan = inputs
        _keep(ctx, tuple(tensors), output, mean, invstd)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *_gradients_of_evaluation(ctx, grad), None, None, None


def _wants_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def move_running_statistics(
    input: Tensor,
    mean: Tensor,
    invstd: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    count: float | None = None,
) -> None:
    """Moves the running statistics towards a batch's.

    The variance follows from invstd: to within 1e-16 * (1 + eps / variance).

    Args:
        input: the batch; ``mean``, ``invstd``: its statistics, float64.
        running_mean, running_var: what is moved, or None.
        momentum: how far.
        eps: what invstd has in it.
        count: values per channel; None: those of ``input``.
    """
    if count is None:
        count = input.numel() / input.shape[1]
    with torch.no_grad():
        if running_mean is not None:
            running_mean.mul_(1 - momentum).add_(mean * momentum)
        if running_var is not None:
            variance = (invstd.pow(-2) - eps).clamp(min=0)
            unbiased = variance * (count / (count - 1))
            running_var.mul_(1 - momentum).add_(unbiased * momentum)


def train(
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    plan: BatchNormPlan,
) -> Normalised:
    """Normalises by the batch's own statistics, and moves the running ones."""
    result: tuple[Tensor, ...]
    if torch.compiler.is_compiling():
        result = _TraceableTraining.apply(input, residual, weight, bias, plan)
        move_running_statistics(
            input, result[1], result[2], running_mean, running_var, momentum, plan.eps
        )
        return Normalised(*result)
    if _wants_gradient(input, residual, weight, bias):
        result = _Training.apply(
            input, residual, weight, bias, running_mean, running_var, momentum, plan
        )
    else:
        result = plan.training_operator(
            input,
            residual,
            weight,
            bias,
            running_mean,
            running_var,
            momentum,
            plan.eps,
            *plan.arguments,
        )
    moved = [r for r in (running_mean, running_var) if r is not None]
    if moved:
        torch.autograd.graph.increment_version(moved)
    return Normalised(*result)


def evaluate(
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    invstd: Tensor,
    plan: BatchNormPlan,
) -> Tensor:
    """Normalises by statistics that are constants."""
    tensors = input, residual, weight, bias
    output: Tensor
    if torch.compiler.is_compiling() or _wants_gradient(*tensors):
        output = _Evaluation.apply(*tensors, mean, invstd, plan)
    else:
        output = ops.normalise(*tensors, mean, invstd, *plan.arguments)
    return output
