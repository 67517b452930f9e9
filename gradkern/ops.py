"""The operators: their handles, and their fake kernels for tracing.

The operators work on lists of tensors of one device. What they can't do themselves they refuse with
an error that :func:`delegates` recognises, before anything is touched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from gradkern import _core
from gradkern import _load as _load  # registers the operators

# The overloads, looked up once: an attribute chain through torch.ops costs .45 us a call.
tensor_norms = torch.ops.gradkern.tensor_norms.default
total_norm = torch.ops.gradkern.total_norm.default
tensor_stats = torch.ops.gradkern.tensor_stats.default
clip_grad_norm_ = torch.ops.gradkern.clip_grad_norm_.default
clip_grad_norm_with_stats_ = torch.ops.gradkern.clip_grad_norm_with_stats_.default
clip_with_total_norm_ = torch.ops.gradkern.clip_with_total_norm_.default
clip_grad_norm_per_tensor_ = torch.ops.gradkern.clip_grad_norm_per_tensor_.default
adaptive_clip_grad_ = torch.ops.gradkern.adaptive_clip_grad_.default
clip_grad_value_ = torch.ops.gradkern.clip_grad_value_.default

_F = TypeVar("_F", bound=Callable[..., Any])

_DELEGATES = "gradkern delegates: "


def delegates(error: BaseException) -> bool:
    """Whether an operator's error means that native PyTorch has to do the work.

    Either our adapter says so, or the dispatcher found no kernel of ours (sparse, quantised, meta,
    other devices).
    """
    return isinstance(error, NotImplementedError) or _DELEGATES in str(error)


def call(operator: Callable[..., Any], *arguments: object) -> Any:
    """Calls an operator whose work native can't do: a refusal becomes NotImplementedError."""
    try:
        return operator(*arguments)
    except (RuntimeError, NotImplementedError) as error:
        if not delegates(error):
            raise
        reason = str(error).partition(_DELEGATES)[2] or str(error).partition("\n")[0]
        raise NotImplementedError(f"gradkern has no kernels for this: {reason}") from None


def norm_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """The real dtype that native gives the norm of these tensors: their promoted dtype's."""
    promoted = functools.reduce(torch.promote_types, {t.dtype for t in tensors})
    return promoted.to_real() if promoted.is_complex else promoted


def _check_list(tensors: Sequence[Tensor], argument: str) -> torch.device:
    if len(tensors) == 0:
        raise ValueError(f"{argument} is an empty list; it must hold a tensor")
    device = tensors[0].device
    for i, tensor in enumerate(tensors):
        if tensor.device != device:
            raise RuntimeError(
                f"{argument}[{i}] is on {tensor.device}; it must be on {device} like {argument}[0]"
            )
        if not (tensor.is_floating_point() or tensor.is_complex()):
            raise RuntimeError(
                f"{argument}[{i}] has dtype {tensor.dtype}; it must be floating point or complex"
            )
    return device


def _fake(name: str) -> Callable[[_F], _F]:
    """Registers a function as what an operator does to tensors that have no data."""
    return torch.library.register_fake(f"gradkern::{name}")  # type: ignore[no-any-return]


def _units(tensor: Tensor) -> int | torch.SymInt:
    return tensor.shape[0] if tensor.dim() > 1 and tensor.numel() > 0 else 1


@_fake("tensor_norms")
def _(tensors: Sequence[Tensor], norm_type: float, unitwise: bool = False) -> Tensor:
    device = _check_list(tensors, "tensors")
    count = sum(_units(t) for t in tensors) if unitwise else len(tensors)
    return torch.empty((count,), dtype=torch.float64, device=device)


@_fake("total_norm")
def _(tensors: Sequence[Tensor], norm_type: float) -> Tensor:
    return torch.empty((), dtype=torch.float64, device=_check_list(tensors, "tensors"))


@_fake("tensor_stats")
def _(tensors: Sequence[Tensor]) -> Tensor:
    device = _check_list(tensors, "tensors")
    columns = len(_core.statistics)
    return torch.empty((len(tensors), columns), dtype=torch.float64, device=device)


@_fake("clip_grad_norm_")
def _(grads: Sequence[Tensor], max_norm: float, norm_type: float) -> Tensor:
    device = _check_list(grads, "grads")
    return torch.empty((), dtype=norm_dtype(grads), device=device)


@_fake("clip_grad_norm_with_stats_")
def _(grads: Sequence[Tensor], max_norm: float, norm_type: float) -> tuple[Tensor, Tensor]:
    device = _check_list(grads, "grads")
    columns = len(_core.statistics)
    return (
        torch.empty((), dtype=norm_dtype(grads), device=device),
        torch.empty((len(grads), columns), dtype=torch.float64, device=device),
    )


@_fake("clip_with_total_norm_")
def _(grads: Sequence[Tensor], total_norm: Tensor, max_norm: float) -> None:
    device = _check_list(grads, "grads")
    if total_norm.device != device:
        raise RuntimeError(
            f"total_norm is on {total_norm.device}; it must be on {device} like grads"
        )


@_fake("clip_grad_norm_per_tensor_")
def _(grads: Sequence[Tensor], max_norm: float, norm_type: float) -> Tensor:
    device = _check_list(grads, "grads")
    return torch.empty((len(grads),), dtype=torch.float64, device=device)


@_fake("adaptive_clip_grad_")
def _(
    grads: Sequence[Tensor],
    parameters: Sequence[Tensor],
    clip_factor: float,
    eps: float,
    norm_type: float,
) -> None:
    _check_list(grads, "grads")
    _check_list(parameters, "parameters")


@_fake("clip_grad_value_")
def _(grads: Sequence[Tensor], clip_value: float) -> None:
    _check_list(grads, "grads")
