"""Norms, statistics and clip factors computed exactly enough to judge the kernels.

Nothing here calls a torch reduction. Elements become float64 without rounding; sums are
`math.fsum`, which rounds once; squares and other powers are taken in extended precision and split
in two float64 halves before they are summed; roots are taken by mpmath with 60 digits. So every
number below is right to about one unit in the last place of float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import mpmath
import numpy as np
import torch
from torch import Tensor

REAL_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
COMPLEX_DTYPES = (torch.complex64, torch.complex128)
ALL_DTYPES = REAL_DTYPES + COMPLEX_DTYPES

# How far an element scaled in float32 (float64 for float64) may lie from the exact product: one
# rounding of the factor and one of the product, or, for 16-bit storage, one rounding at the end.
# float64 totals are promised to 1e-14, about 45 units in the last place.
SCALING_ULPS = {
    torch.float32: 2.0,
    torch.float64: 64.0,
    torch.bfloat16: 1.0,
    torch.float16: 1.0,
}


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of a norm of tensors of `dtype`: complex64 gives float32."""
    return {torch.complex64: torch.float32, torch.complex128: torch.float64}.get(dtype, dtype)


def components(tensor: Tensor) -> np.ndarray:
    """A copy of the elements as float64, exactly; a complex element is two of them."""
    tensor = tensor.detach().resolve_conj().resolve_neg().cpu()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.to(torch.float64, copy=True).reshape(-1).numpy()


def magnitudes(tensor: Tensor) -> np.ndarray:
    """|x| of each element in extended precision; the modulus of a complex one."""
    parts = components(tensor).astype(np.longdouble)
    if not tensor.is_complex():
        return np.abs(parts)
    with np.errstate(invalid="ignore"):
        return np.hypot(parts[0::2], parts[1::2])


def exact_sum(terms: np.ndarray) -> mpmath.mpf:
    """The sum of extended-precision terms, rounded nowhere but in the last step of two fsums."""
    with np.errstate(over="ignore"):
        high = terms.astype(np.float64)
    if np.isinf(high).any():
        return mpmath.inf
    low = (terms - high).astype(np.float64)
    return mpmath.mpf(math.fsum(high.tolist())) + mpmath.mpf(math.fsum(low.tolist()))


def exact_norm(tensors: Iterable[Tensor] | Tensor, order: float = 2.0) -> float:
    """The norm of order `order` of all elements together (order 0: how many tensors are not zero).

    Infinite where the true norm lies beyond float64.
    """
    listed = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    if order == 0:
        return float(sum(bool((components(t) != 0).any()) for t in listed))
    return norm_of_magnitudes(np.concatenate([magnitudes(t) for t in listed]), order)


def norm_of_magnitudes(values: np.ndarray, order: float) -> float:
    """As `exact_norm`, of non-negative numbers; order 0 counts the elements that are not zero."""
    if order == 0:
        return float(np.count_nonzero(values))
    if math.isnan(order) or np.isnan(values).any():
        return math.nan
    if math.isinf(order):
        return float(values.max() if order > 0 else values.min())
    if values.size == 0 or (order < 0 and (values == 0).any()):
        return 0.0
    if order > 0 and np.isinf(values).any():
        return math.inf
    finite = values[np.isfinite(values) & (values != 0)]
    if finite.size == 0:
        return 0.0 if order > 0 else math.inf
    # A power of two near the element that dominates: quotients are exact, their powers in range.
    extreme = finite.max() if order > 0 else finite.min()
    scale = np.ldexp(np.longdouble(1), int(np.frexp(extreme)[1]))
    with mpmath.workdps(60), np.errstate(under="ignore"):
        total = exact_sum((finite / scale) ** np.longdouble(order))
        norm = mpmath.mpf(float(scale)) * total ** (mpmath.mpf(1) / mpmath.mpf(order))
        return float(norm)


def exact_coefficient(total: float, max_norm: float) -> float:
    """torch.nn.utils' clamp(max_norm / (total + 1e-6), max=1), in float64."""
    denominator = total + 1e-6
    if math.isnan(denominator) or math.isnan(max_norm):
        return math.nan
    if denominator == 0:
        quotient = math.nan if max_norm == 0 else math.copysign(math.inf, max_norm)
    else:
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            quotient = float(np.float64(max_norm) / np.float64(denominator))
    return quotient if math.isnan(quotient) else min(quotient, 1.0)


def scaled(tensor: Tensor, factor: float | np.ndarray) -> np.ndarray:
    """The components times a factor, in float64."""
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        return components(tensor) * factor


def ulp(expected: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """The distance between neighbouring numbers of `dtype` around each expected value."""
    info = torch.finfo(dtype)
    smallest = info.smallest_normal
    magnitude = np.maximum(np.abs(expected), smallest)
    magnitude = np.minimum(magnitude, info.max)
    return np.ldexp(info.eps, np.frexp(magnitude)[1] - 1)


def ulp_distance(
    actual: Tensor, expected: np.ndarray | Sequence[float] | float, dtype: torch.dtype | None = None
) -> float:
    """The largest distance of `actual` from `expected`, in units in the last place of its dtype.

    Infinite where one is NaN (or infinite) and the other is not. An expected value beyond the
    dtype's largest finite number by half a unit or more is an infinity of that dtype.
    """
    dtype = real_dtype(dtype or actual.dtype)
    got = components(actual)
    want = np.array(expected, dtype=np.float64).reshape(-1)
    assert got.shape == want.shape, f"{got.shape} elements where {want.shape} are right"
    if got.size == 0:
        return 0.0
    info = torch.finfo(dtype)
    if dtype != torch.float64:
        top = info.max * (1 + info.eps / 4)
        want = np.where(np.abs(want) >= top, np.copysign(np.inf, want), want)
    same_kind = (np.isnan(got) == np.isnan(want)) & (np.isinf(got) == np.isinf(want))
    same_kind &= ~np.isinf(want) | (got == want)
    finite = np.isfinite(got) & np.isfinite(want)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(np.where(finite, got, 0) - np.where(finite, want, 0))
        distance = distance / ulp(np.where(finite, want, 0), dtype)
    return float(np.where(same_kind, np.where(finite, distance, 0.0), np.inf).max())


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bits, the payload of NaNs and the sign of zero included."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return raw_bytes(a) == raw_bytes(b)


def raw_bytes(tensor: Tensor) -> bytes:
    """The elements' bytes in row-major order."""
    detached = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return detached.reshape(-1).view(torch.uint8).numpy().tobytes()
