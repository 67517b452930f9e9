"""What the activations' public functions have in common: arguments, `out=`, and native's share.

Integer and complex tensors, sparse ones, subclasses and devices without kernels of ours are handed
to native PyTorch's function of the same name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gradkern import ops
from gradkern.activation_autograd import (
    activate,
    activate_in_place,
    activate_with_stats,
    is_transformed,
)
from gradkern.activations import Activation, ActivationStats
from gradkern.tensor_lists import PLAIN_TYPES

# torch computes these in float32 where autocast is on for CUDA; none of ours on the CPU
# (https://docs.pytorch.org/docs/2.13/amp.html#cuda-ops-that-autocast-to-float32).
_FLOAT32_UNDER_CUDA_AUTOCAST = {"softplus"}


def _native(row: Activation) -> Callable[..., Tensor]:
    if row.name == "gelu_tanh":
        return lambda input: torch.nn.functional.gelu(input, approximate="tanh")
    if row.name == "squared_relu":
        return lambda input: torch.relu(input).square()
    function = getattr(torch, row.name, None) if row.name in ("sigmoid", "tanh") else None
    function = function or getattr(torch.nn.functional, row.name, None)
    if function is None:
        raise NotImplementedError(f"neither gradkern nor torch can compute {row.name} of this")
    return function  # type: ignore[no-any-return]


def _by_native(
    row: Activation,
    input: Tensor,
    parameters: tuple[float, ...],
    inplace: bool,
    out: Tensor | None,
) -> Tensor:
    value = _native(row)(input, *parameters)
    if out is not None:
        return out.copy_(value)
    return input.copy_(value) if inplace else value


def _require_tensor(input: object) -> None:
    if not isinstance(input, Tensor):
        raise TypeError(f"input is a {type(input).__name__}; it must be a tensor")


def _keeps_output(save: str) -> bool:
    if save == "output":
        return True
    if save != "input":
        raise ValueError(f"save is {save!r}; it must be one of output, input")
    return False


def _require_untransformed(row: Activation, form: str) -> None:
    """An operator alone would be a constant to functorch and forward AD, silently."""
    if not torch.compiler.is_compiling() and is_transformed():
        raise NotImplementedError(
            f"{row.name}{form} can't be transformed (functorch, forward AD); {row.name} can"
        )


def _autocast(input: Tensor) -> Tensor:
    if input.is_cuda and torch.is_autocast_enabled("cuda"):
        return input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    return input


def call(
    row: Activation,
    input: Tensor,
    parameters: tuple[float, ...],
    inplace: bool = False,
    out: Tensor | None = None,
    save: str = "output",
) -> Tensor:
    """An activation's value, new, in place, or into `out`.

    Args:
        row: the activation.
        input: the tensor.
        parameters: the row's parameters.
        inplace: write over ``input``.
        out: write into this tensor.
        save: what backward keeps of a function that can keep its output: "output" or "input".

    Returns:
        The value: a new tensor, ``input`` or ``out``.

    Raises:
        TypeError: ``input`` is not a tensor.
        RuntimeError: ``out`` is given and a gradient is wanted, or has another shape; or
            ``inplace`` would write a leaf that requires grad.

    Example:
        >>> from gradkern.activations import activation
        >>> call(activation("relu"), torch.tensor([-1.0, 2.0]), ())
        tensor([0., 2.])
    """
    if type(input) not in PLAIN_TYPES:
        _require_tensor(input)
        return _by_native(row, input, parameters, inplace, out)
    if row.name in _FLOAT32_UNDER_CUDA_AUTOCAST:
        input = _autocast(input)
    of_output = _keeps_output(save) and row.can_save_output(parameters)
    try:
        if out is not None:
            if inplace:
                raise ValueError("inplace is True and out is given; it must be one or the other")
            return _into(row, input, parameters, out)
        if inplace:
            return activate_in_place(row, input, parameters, of_output)
        return activate(row, input, parameters, of_output)
    except (RuntimeError, NotImplementedError) as error:
        if not ops.delegates(error):
            raise
    return _by_native(row, input, parameters, inplace, out)


def _into(row: Activation, input: Tensor, parameters: tuple[float, ...], out: Tensor) -> Tensor:
    if not isinstance(out, Tensor):
        raise TypeError(f"out is a {type(out).__name__}; it must be a tensor")
    if torch.is_grad_enabled() and (input.requires_grad or out.requires_grad):
        raise RuntimeError(
            f"{row.name}(): functions with out=... arguments don't support automatic "
            "differentiation, but one of the arguments requires grad."
        )
    if out.device != input.device:
        raise RuntimeError(f"out is on {out.device}; it must be on {input.device} like input")
    if out.shape != input.shape:
        if out.numel() > 0:
            raise RuntimeError(
                f"out has shape {tuple(out.shape)}; it must have {tuple(input.shape)} like input, "
                "or be empty"
            )
        out.resize_(input.shape)
    if out.dtype != input.dtype:
        if not torch.can_cast(input.dtype, out.dtype):
            raise RuntimeError(
                f"result type {input.dtype} can't be cast to the desired output type {out.dtype}"
            )
        return out.copy_(row.value(input, *parameters))
    _require_untransformed(row, "(out=...)")
    row.value_out(input, *parameters, out=out)
    torch.autograd.graph.increment_version(out)
    return out


def call_with_derivative(
    row: Activation,
    input: Tensor,
    parameters: tuple[float, ...],
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """An activation's value and derivative in one pass, outside of autograd.

    Args:
        row: the activation.
        input: the tensor.
        parameters: the row's parameters.
        out: two tensors like ``input`` that receive the results.

    Raises:
        TypeError: ``input`` is not a tensor.
        NotImplementedError: there are no kernels for it.
        RuntimeError: it requires grad, while grad mode is on.
        ValueError: ``out`` is not like ``input``.

    Example:
        >>> from gradkern.activations import activation
        >>> call_with_derivative(activation("squared_relu"), torch.tensor([-1.0, 3.0]), ())
        (tensor([0., 9.]), tensor([0., 6.]))
    """
    _require_tensor(input)
    if torch.is_grad_enabled() and input.requires_grad:
        raise RuntimeError(
            f"input requires grad, and {row.name}_with_derivative is not differentiable; call it "
            "under torch.no_grad(), or with input.detach()"
        )
    _require_untransformed(row, "_with_derivative")
    if out is not None:
        value, derivative = out
        into = functools.partial(row.with_derivative_out, out=value, derivative_out=derivative)
        ops.call(into, input, *parameters)
        torch.autograd.graph.increment_version(out)
        return value, derivative
    result: tuple[Tensor, Tensor] = ops.call(row.with_derivative, input, *parameters)
    return result


def call_with_stats(
    row: Activation,
    input: Tensor,
    parameters: tuple[float, ...],
    channel_dim: int | None,
    save: str = "output",
) -> tuple[Tensor, ActivationStats]:
    """An activation's value, differentiable, and its statistics, from the same pass.

    Raises:
        TypeError: ``input`` is not a tensor.
        IndexError: there is no dimension ``channel_dim``.
        NotImplementedError: there are no kernels for it, or a functorch transformation or forward
            AD is going on.

    Example:
        >>> from gradkern.activations import activation
        >>> y, stats = call_with_stats(activation("tanh"), torch.zeros(4), (), None)
        >>> stats.mean_abs_derivative.item()
        1.0
    """
    _require_tensor(input)
    _require_untransformed(row, "_with_stats")
    if channel_dim is not None and not -input.dim() <= channel_dim < input.dim():
        raise IndexError(
            f"channel_dim is {channel_dim}; it must be in [{-input.dim()}, {input.dim() - 1}] for "
            f"an input of {input.dim()} dimensions"
        )
    arguments: Any = (
        row,
        input,
        parameters,
        _keeps_output(save) and row.can_save_output(parameters),
    )
    output, values = ops.call(activate_with_stats, *arguments, channel_dim)
    return output, ActivationStats(values, input.numel())
