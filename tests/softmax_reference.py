"""Softmax computed in extended precision, and what the kernels are allowed to differ from it."""

from __future__ import annotations

import numpy as np
from exact_reference import components, ulp
from torch import Tensor


def _extended(tensor: Tensor) -> np.ndarray:
    return components(tensor).astype(np.longdouble).reshape(tensor.shape)


def exact_softmax(x: Tensor, dim: int) -> np.ndarray:
    """exp(x) / sum(exp(x)) with 64 bits of mantissa, rounded to float64 once at the end."""
    entries = _extended(x)
    with np.errstate(invalid="ignore"):
        terms = np.exp(entries - entries.max(axis=dim, keepdims=True))
        return (terms / terms.sum(axis=dim, keepdims=True)).astype(np.float64)


def exact_log_softmax(x: Tensor, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """x - lse, and the larger of |x| and |lse|, which says how exact it can be."""
    entries = _extended(x)
    with np.errstate(invalid="ignore"):
        largest = entries.max(axis=dim, keepdims=True)
        log_sum = np.log(np.exp(entries - largest).sum(axis=dim, keepdims=True))
        result = (entries - largest) - log_sum
        scale = np.maximum(np.abs(entries), np.abs(largest + log_sum))
    return result.astype(np.float64), scale.astype(np.float64)


def log_softmax_distance(actual: Tensor, x: Tensor, dim: int) -> float:
    """The largest error, in units in the last place of max(|x|, |lse|) of the storage type."""
    want, scale = exact_log_softmax(x, dim)
    got = components(actual).reshape(want.shape)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    if not np.isfinite(got[~same]).all() or not np.isfinite(want[~same]).all():
        return np.inf
    error = np.abs(np.where(same, 0, got) - np.where(same, 0, want))
    unit = ulp(np.where(np.isfinite(scale), scale, 1), actual.dtype)
    return float((error / unit).max(initial=0))


def exact_softmax_backward(grad: Tensor, y: Tensor, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """(g - sum(g * y)) * y, and the magnitudes that it is made of."""
    g, out = _extended(grad), _extended(y)
    total = (g * out).sum(axis=dim, keepdims=True)
    made_of = (np.abs(g) + (np.abs(g) * out).sum(axis=dim, keepdims=True)) * out
    return ((g - total) * out).astype(np.float64), made_of.astype(np.float64)


def exact_log_softmax_backward(grad: Tensor, y: Tensor, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """g - exp(y) * sum(g), and the magnitudes that it is made of."""
    g, out = _extended(grad), _extended(y)
    part = np.exp(out) * g.sum(axis=dim, keepdims=True)
    return (g - part).astype(np.float64), (np.abs(g) + np.abs(part)).astype(np.float64)
