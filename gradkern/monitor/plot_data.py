"""What the plots show, as arrays: the same for every library that draws them."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradkern.monitor.history import RunHistory

Array: TypeAlias = NDArray[np.float64]

TARGET_UPDATE = -3.0
# More lines than these can't be told apart.
_LINES = 12
_LAYERS_IN_HEAT_MAP = 1000
_OUTPUTS_IN_BARS = 200


def _matrices(history: RunHistory) -> list[int]:
    return [i for i, matrix in enumerate(history.run.get("matrices", ())) if matrix]


def _names(history: RunHistory, chosen: list[int]) -> list[str]:
    return [history.run["layers"][i] or history.run["parameters"][i] for i in chosen]


def _at_most(chosen: list[int], count: int) -> list[int]:
    """Evenly spread, the first and the last among them."""
    if len(chosen) <= count:
        return chosen
    return [chosen[i] for i in np.linspace(0, len(chosen) - 1, count).round().astype(int)]


def depth_lines(history: RunHistory) -> list[tuple[str, Array]]:
    """log10 of the gradient norms against depth: at the first step, and now."""
    chosen = _matrices(history)
    rows = [row for row in (history.first, history.last) if row is not None]
    return [
        (f"step {row.step}", _finite(row.gradient.astype(float)[chosen]))
        for row in rows
        if len(row.gradient) == len(history.run["parameters"])
    ]


def heat_map(history: RunHistory) -> tuple[NDArray[np.int64], list[str], Array]:
    """Steps, layers, and log10 of the gradient norms, shape ``[layers, steps]``."""
    chosen = _at_most(_matrices(history), _LAYERS_IN_HEAT_MAP)
    rows = history.shown_rows
    steps = np.array([row.step for row in rows], dtype=np.int64)
    values = np.stack([row.gradient.astype(float)[chosen] for row in rows], 1) if rows else None
    return steps, _names(history, chosen), np.empty((0, 0)) if values is None else _finite(values)


def update_lines(history: RunHistory) -> tuple[NDArray[np.int64], list[str], Array]:
    """Steps, layers, and log10 of std(dw)/std(w), shape ``[layers, steps]``."""
    chosen = _at_most(_matrices(history), _LINES)
    rows = history.shown_rows
    steps = np.array([row.step for row in rows], dtype=np.int64)
    values = np.stack([row.update.astype(float)[chosen] for row in rows], 1) if rows else None
    return steps, _names(history, chosen), np.empty((0, 0)) if values is None else _finite(values)


def totals(history: RunHistory) -> tuple[NDArray[np.int64], Array, Array, Array]:
    """Steps, losses, and the total norm before and after clipping."""
    points = history.points
    return (
        np.array([p.step for p in points], dtype=np.int64),
        np.array([p.loss for p in points]),
        np.array([p.before for p in points]),
        np.array([p.after for p in points]),
    )


def bars(history: RunHistory) -> tuple[list[str], Array, Array]:
    """Outputs, and their shares of saturated elements and of dead units; 0 where neither can be."""
    names = list(history.run.get("outputs", ()))
    row = history.last
    if row is None or len(row.saturated) != len(names):
        return [], np.empty(0), np.empty(0)
    saturated, dead = row.saturated.astype(float), row.dead.astype(float)
    known = [i for i in range(len(names)) if not (np.isnan(saturated[i]) and np.isnan(dead[i]))]
    known = _at_most(known, _OUTPUTS_IN_BARS)
    return (
        [names[i] for i in known],
        np.nan_to_num(saturated[known]),
        np.nan_to_num(dead[known]),
    )


def recent_range(
    values: Array, pad: float = 0.0, including: float | None = None
) -> tuple[float, float]:
    """Axis limits from the later half of the values: early outliers would squeeze all else.

    Args:
        values: the last axis is time.
        pad: added at both ends, as a share of the range, but 0.1 at least.
        including: a value that must lie inside.
    """
    half = values[..., values.shape[-1] // 2 :]
    finite = half[np.isfinite(half)]
    if not finite.size:
        finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = (float(q) for q in np.quantile(finite, [0.01, 0.99]))
    if including is not None:
        low, high = min(low, including), max(high, including)
    margin = max(pad * (high - low), 0.1)
    return low - margin, high + margin


def _finite(values: Array) -> Array:
    """NaN, a gap, for what no logarithmic axis can show: 0 and what is not finite."""
    return np.where(np.isfinite(values), values, np.nan)
