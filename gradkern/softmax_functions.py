"""Softmax, its logarithm and softmin as functions: drop-ins for those of torch.nn.functional."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from gradkern import ops
from gradkern.softmax import LOG_SOFTMAX, SOFTMAX, Kind
from gradkern.softmax_autograd import normalise
from gradkern.tensor_lists import PLAIN_TYPES

__all__ = ["log_softmax", "softmax", "softmin"]


def softmax(
    input: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Softmax along a dimension: ``exp(x) / sum(exp(x))``.

    The largest entry is subtracted first, the sum runs in float64, and its bits don't depend on the
    number of threads. A drop-in for :func:`torch.nn.functional.softmax`.

    Args:
        input: float32, float64, bfloat16 or float16, any shape and layout; an entry of -infinity
            becomes 0, and a row of nothing else NaN. Anything else is native's.
        dim: the dimension along which the values sum to 1. None is deprecated, as in torch.
        dtype: converts ``input`` to this dtype first.

    Returns:
        A tensor like ``input``. Values are within 4 units in the last place. Differentiable, also
        twice; backward needs the output only.

    Raises:
        TypeError: ``input`` is not a tensor, or ``dim`` not an integer.
        IndexError: there is no dimension ``dim``.

    Source:
        Bridle, "Probabilistic interpretation of feedforward classification network outputs", 1990;
        Milakov, Gimelshein, "Online normalizer calculation for softmax", 2018.

    Example:
        >>> gradkern.functional.softmax(torch.tensor([0.0, 1.0, -torch.inf]), dim=0)
        tensor([0.2689, 0.7311, 0.0000])
    """
    return _along(SOFTMAX, "softmax", input, dim, _stacklevel, dtype)


def log_softmax(
    input: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The logarithm of softmax along a dimension: ``x - log(sum(exp(x)))``.

    A drop-in for :func:`torch.nn.functional.log_softmax`.

    Args:
        input, dim, dtype: as for :func:`softmax`.

    Returns:
        A tensor like ``input``, within 4 units in the last place of the larger of ``|x|`` and
        ``|log(sum(exp(x)))|``. Differentiable, also twice; backward needs the output only.

    Raises:
        TypeError, IndexError: as for :func:`softmax`.

    Source:
        as for :func:`softmax`.

    Example:
        >>> gradkern.functional.log_softmax(torch.tensor([1000.0, 0.0]), dim=-1)
        tensor([    0., -1000.])
    """
    return _along(LOG_SOFTMAX, "log_softmax", input, dim, _stacklevel, dtype)


def softmin(
    input: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Softmax of ``-input``: a drop-in for :func:`torch.nn.functional.softmin`.

    Args:
        input, dim, dtype: as for :func:`softmax`.

    Returns:
        A tensor like ``input``.

    Raises:
        TypeError, IndexError: as for :func:`softmax`.

    Source:
        as for :func:`softmax`.

    Example:
        >>> gradkern.functional.softmin(torch.tensor([0.0, 1.0]), dim=0)
        tensor([0.7311, 0.2689])
    """
    if not isinstance(input, Tensor):
        raise TypeError(f"input is a {type(input).__name__}; it must be a tensor")
    if dim is None:
        dim = _implicit_dim("softmin", input, _stacklevel - 1)
    return _along(SOFTMAX, "softmin", -input, dim, _stacklevel, dtype)


def _implicit_dim(name: str, input: Tensor, stacklevel: int) -> int:
    """torch's choice of a dimension, with torch's warning."""
    warnings.warn(
        f"Implicit dimension choice for {name} has been deprecated. "
        "Change the call to include dim=X as an argument.",
        stacklevel=stacklevel + 1,
    )
    return 0 if input.dim() in (0, 1, 3) else 1


def _along(
    kind: Kind,
    name: str,
    input: Tensor,
    dim: int | None,
    stacklevel: int,
    dtype: torch.dtype | None,
) -> Tensor:
    if not isinstance(input, Tensor):
        raise TypeError(f"input is a {type(input).__name__}; it must be a tensor")
    if dim is None:
        dim = _implicit_dim(name, input, stacklevel)
    if type(input) not in PLAIN_TYPES:
        return _by_native(kind, input, dim, dtype)
    if dtype is not None:
        input = input.to(dtype)
    elif input.is_cuda and _is_autocast_to_float32(input):
        input = input.float()
    dimensions = max(input.dim(), 1)
    if not -dimensions <= dim < dimensions:
        # Native's exception type and words.
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{-dimensions}, "
            f"{dimensions - 1}], but got {dim})"
        )
    from_end = dim - dimensions if dim >= 0 else dim
    try:
        if input.dim() == 0:  # a batch of these has one dimension
            return normalise(kind, input.unsqueeze(-1), -1).squeeze(-1)
        return normalise(kind, input, from_end)
    except (RuntimeError, NotImplementedError) as error:
        if not ops.delegates(error):
            raise
    return _by_native(kind, input, dim, None)


def _is_autocast_to_float32(input: Tensor) -> bool:
    """torch computes these functions in float32 where autocast is on for CUDA, not on the CPU.

    Source: https://docs.pytorch.org/docs/2.13/amp.html#cuda-ops-that-autocast-to-float32
    """
    return torch.is_autocast_enabled("cuda") and input.dtype in (torch.float16, torch.bfloat16)


def _by_native(kind: Kind, input: Tensor, dim: int, dtype: torch.dtype | None) -> Tensor:
    native = torch.log_softmax if kind is LOG_SOFTMAX else torch.softmax
    return native(input, dim, dtype=dtype)
