"""Batch normalisation as functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradkern import batch_norm as operators
from gradkern import ops
from gradkern.activation_autograd import is_transformed
from gradkern.batch_norm import FusedActivation, fused_activation
from gradkern.batch_norm_autograd import BatchNormPlan, Normalised, evaluate, train
from gradkern.tensor_lists import PLAIN_TYPES

__all__ = ["batch_norm", "batch_norm_backward", "batch_norm_forward"]


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str = "identity",
    activation_parameter: float | None = None,
    residual: Tensor | None = None,
    memory_efficient: bool = False,
) -> Tensor:
    """Batch normalisation, an addition and an activation in one pass each way.

    ``activation((input - mean) / sqrt(var + eps) * weight + bias + residual)``. A drop-in for
    :func:`torch.nn.functional.batch_norm`. The statistics are float64 sums of differences, right
    where the mean is far larger than the standard deviation, and their bits don't depend on the
    number of threads.

    Args:
        input: float32, float64, bfloat16 or float16 of shape ``[N, C, ...]``, any layout;
            channels-last stays channels-last. Anything else is native's.
        running_mean, running_var: ``[C]``; moved in training, used in evaluation. Both or neither.
        weight, bias: ``[C]``, of one dtype, which may be wider than the input's; None: 1 and 0.
        training: normalise by the batch's own statistics. Without running statistics it must be
            True.
        momentum: how far the running statistics move towards the batch's.
        eps: is added to the variance.
        activation: "identity", "relu", "leaky_relu", "elu", "silu" or "gelu".
        activation_parameter: ``negative_slope`` of leaky_relu, ``alpha`` of elu; None: the default.
        residual: a tensor like ``input`` that is added before the activation (He et al. 2016).
        memory_efficient: keep the output for backward, which the next layer mostly keeps anyway, in
            place of ``input``. Not a drop-in: the weight is ``|weight| + eps``, and where that is
            small beside the bias, or elu's output near ``-alpha``, gradients are less exact. For
            identity, leaky_relu and elu with a positive parameter, float32 and float64.

    Returns:
        A tensor like ``input``. Differentiable, also twice (by torch's operations; not with
        ``memory_efficient``). Backward keeps ``input`` (and ``residual``, where an activation
        follows), and nothing in between.

    Raises:
        ValueError: training with one value per channel; ``eps`` is negative; ``activation`` is
            unknown; ``residual`` or a parameter has another shape; ``memory_efficient`` with a
            residual, or with an activation that can't be undone.
        RuntimeError: only one of the running statistics is given, or none in evaluation.
        TypeError: ``input`` is not a tensor; ``memory_efficient`` for 16-bit data.

    Source:
        Ioffe, Szegedy, "Batch normalization", 2015; ``memory_efficient``: Rota Bulo, Porzi,
        Kontschieder, "In-place activated BatchNorm", 2018.

    Example:
        >>> x = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
        >>> gradkern.functional.batch_norm(x, None, None, training=True, activation="relu")
        tensor([[0.0000, 0.0000],
                [1.0000, 1.0000]])
    """
    fused = fused_activation(activation, activation_parameter)
    if memory_efficient:
        require_invertible(fused)
    plan = BatchNormPlan(float(eps), fused, memory_efficient)
    return normalise(
        input, residual, weight, bias, running_mean, running_var, training, momentum, plan
    ).output


def normalise(
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    plan: BatchNormPlan,
) -> Normalised:
    """What :func:`batch_norm` gives, with the statistics that it used."""
    weight = applied_weight(input, residual, weight, plan)
    tensors = input, residual, weight, bias, running_mean, running_var
    for tensor in tensors:
        if tensor is not None and type(tensor) not in PLAIN_TYPES:
            _require_tensor(tensor)
            return Normalised(_by_native(*tensors, training, momentum, plan))
    # What batch normalisation of nothing is, native says.
    if input.numel() == 0 and (training or input.dim() < 2):
        return Normalised(_by_native(*tensors, training, momentum, plan))
    _check(input, residual, running_mean, running_var, training, plan.eps)
    if not torch.compiler.is_compiling() and is_transformed():
        return Normalised(_by_native(*tensors, training, momentum, plan))
    try:
        if training:
            return train(*tensors, momentum, plan)
        assert running_mean is not None
        assert running_var is not None
        mean = running_mean.double()
        invstd = (running_var.double() + plan.eps).rsqrt()
        output = evaluate(input, residual, weight, bias, mean, invstd, plan)
        return Normalised(output, mean, invstd)
    except (RuntimeError, NotImplementedError) as error:
        if not ops.delegates(error):
            raise
    return Normalised(_by_native(*tensors, training, momentum, plan))


def require_invertible(activation: FusedActivation) -> None:
    """Raises ValueError for an activation whose argument does not follow from its value."""
    if activation.name not in operators.OF_OUTPUT:
        raise ValueError(
            f"activation is {activation.name!r}; with memory_efficient it must be one of "
            f"{', '.join(operators.OF_OUTPUT)}"
        )
    if activation.name != "identity" and not activation.parameter > 0:
        raise ValueError(
            f"activation_parameter is {activation.parameter}; with memory_efficient it must be "
            "positive"
        )


def applied_weight(
    input: Tensor, residual: Tensor | None, weight: Tensor | None, plan: BatchNormPlan
) -> Tensor | None:
    """The weight that a plan multiplies by: a memory-efficient one must be able to divide by it.

    Raises:
        TypeError, ValueError: the plan is memory-efficient, and the input does not follow from the
            output.
    """
    if not plan.memory_efficient:
        return weight
    if isinstance(input, Tensor) and input.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"input is {input.dtype}; with memory_efficient it must be float32 or float64"
        )
    if residual is not None:
        raise ValueError("residual is a tensor; with memory_efficient it must be None")
    return None if weight is None else weight.abs() + plan.eps


def _by_native(
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    plan: BatchNormPlan,
) -> Tensor:
    """By torch's functions: for what our kernels don't handle, and for transformations."""
    output = torch.nn.functional.batch_norm(
        input, running_mean, running_var, weight, bias, training, momentum, plan.eps
    )
    return plan.activation(output if residual is None else output + residual)


def _require_tensor(input: object) -> None:
    if not isinstance(input, Tensor):
        raise TypeError(f"input is a {type(input).__name__}; it must be a tensor")


def _check(
    input: Tensor,
    residual: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    eps: float,
) -> None:
    if input.dim() < 2:
        raise ValueError(
            f"input has {input.dim()} dimensions; it must have at least 2, of which the second is "
            "the channels'"
        )
    if training and input.shape[0] * math.prod(input.shape[2:]) == 1:
        # Native's exception and words.
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {input.shape}"
        )
    if training and eps <= 0:
        raise ValueError(f"eps is {eps}; it must be positive during training")
    if eps < 0:
        raise ValueError(f"eps is {eps}; it must not be negative")
    if residual is not None and residual.shape != input.shape:
        raise ValueError(
            f"residual has shape {tuple(residual.shape)}; it must have {tuple(input.shape)} like "
            "input"
        )
    if (running_mean is None) != (running_var is None):
        missing = "running_mean" if running_mean is None else "running_var"
        raise RuntimeError(
            f"{missing} is None; running_mean and running_var must be given together"
        )
    if running_mean is None and not training:
        raise RuntimeError("running_mean is None; it must be a tensor in evaluation mode")


def _raw_plan(
    eps: float, activation: str, activation_parameter: float | None
) -> tuple[float, FusedActivation]:
    return float(eps), fused_activation(activation, activation_parameter)


def _require_no_gradient(function: str, **tensors: Tensor | None) -> None:
    if torch.is_grad_enabled():
        for name, tensor in tensors.items():
            if tensor is not None and tensor.requires_grad:
                raise RuntimeError(
                    f"{name} requires grad, and {function} is not differentiable; call it under "
                    "torch.no_grad(), or in a torch.autograd.Function of your own"
                )


def batch_norm_forward(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: str = "identity",
    activation_parameter: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch normalisation by the batch's own statistics, outside of autograd.

    For those who write layers of their own.

    Args:
        x: float32, float64, bfloat16 or float16 of shape ``[N, C, ...]``.
        weight, bias, eps, residual, activation, activation_parameter: as for :func:`batch_norm`.

    Returns:
        ``(y, mean, invstd)``: the value, like ``x``; the mean, and ``1 / sqrt(var + eps)`` of the
        biased variance, both float64 of shape ``[C]``.

    Raises:
        RuntimeError: something requires grad while grad mode is on.
        NotImplementedError: there are no kernels for it.
        ValueError: as for :func:`batch_norm`.

    Source:
        Ioffe, Szegedy, 2015, algorithm 1.

    Example:
        >>> y, mean, invstd = gradkern.functional.batch_norm_forward(torch.tensor([[1.0], [3.0]]))
        >>> mean.item(), round(invstd.item(), 4)
        (2.0, 1.0)
    """
    _require_tensor(x)
    _check(x, residual, None, None, True, eps)
    _require_no_gradient("batch_norm_forward", x=x, weight=weight, bias=bias, residual=residual)
    eps, fused = _raw_plan(eps, activation, activation_parameter)
    result: tuple[Tensor, Tensor, Tensor] = ops.call(
        operators.training,
        x,
        residual,
        weight,
        bias,
        None,
        None,
        0.0,
        eps,
        fused.index,
        fused.parameter,
    )
    return result


def batch_norm_backward(
    grad_output: Tensor,
    x: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    invstd: Tensor,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str = "identity",
    activation_parameter: float | None = None,
) -> tuple[Tensor, ...]:
    """The gradients of :func:`batch_norm_forward`, outside of autograd.

    Args:
        grad_output: the gradient of ``y``, like ``x``.
        x, weight, bias, residual: what forward had.
        mean, invstd: what forward gave, float64 of shape ``[C]``.
        activation, activation_parameter: what forward had.

    Returns:
        ``(dx, dweight, dbias)``: ``dx`` like ``x``; the others float64 of shape ``[C]``. With a
        residual its gradient comes fourth.

    Raises:
        RuntimeError, NotImplementedError, ValueError: as for :func:`batch_norm_forward`.

    Source:
        Ioffe, Szegedy, 2015, section 3.

    Example:
        >>> x = torch.tensor([[1.0], [3.0], [5.0]])
        >>> y, mean, invstd = gradkern.functional.batch_norm_forward(x)
        >>> g = torch.tensor([[1.0], [0.0], [0.0]])
        >>> dx, dweight, dbias = gradkern.functional.batch_norm_backward(g, x, None, mean, invstd)
        >>> dbias.item()
        1.0
    """
    _require_tensor(x)
    _require_no_gradient(
        "batch_norm_backward", grad_output=grad_output, x=x, weight=weight, residual=residual
    )
    _, fused = _raw_plan(0.0, activation, activation_parameter)
    dx, dresidual, sum_dz, sum_dz_xhat = ops.call(
        operators.backward,
        grad_output,
        x,
        residual,
        weight,
        bias,
        mean,
        invstd,
        fused.index,
        fused.parameter,
        residual is not None,
    )
    if residual is None:
        return dx, sum_dz_xhat, sum_dz
    return dx, sum_dz_xhat, sum_dz, dresidual
