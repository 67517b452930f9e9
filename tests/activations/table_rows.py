"""The rows of the table as test parameters, and inputs that suit all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from activation_reference import REFERENCES, Parameters, in_float64
from torch import Tensor

import gradkern
from gradkern.activations import TABLE, Activation

ROWS = list(TABLE.values())
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SPECIAL = (0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-30, -1e30, 3.0, -3.0)


def name(thing: object) -> str:
    """A test's id."""
    return getattr(thing, "name", str(thing))


def function(row: Activation, suffix: str = "") -> Callable[..., Any]:
    """The public function of a row."""
    result: Callable[..., Any] = getattr(gradkern.functional, row.name + suffix)
    return result


def saves(row: Activation) -> list[dict[str, str]]:
    """The keyword arguments that choose what backward keeps."""
    return [{"save": "output"}, {"save": "input"}] if row.saves_output else [{}]


def normal(
    *shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, scale: float = 2
) -> Tensor:
    """Normal values, which all formulas treat differently."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def smooth_points(
    row: Activation, count: int, parameters: Parameters | None = None, seed: int = 0
) -> Tensor:
    """Float64 inputs that keep away from the points where the derivative jumps."""
    parameters = row.defaults() if parameters is None else parameters
    x = normal(4 * count, dtype=torch.float64, seed=seed)

    def slope(at: Tensor) -> np.ndarray:
        return in_float64(REFERENCES[row.name].derivative, at, parameters).high

    jump = np.abs(slope(x + 1e-3) - slope(x - 1e-3))
    return x[torch.from_numpy((jump < 0.01) & (x.abs().numpy() > 1e-3))][:count].clone()


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equality of shape, dtype and every bit, except those of NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    number = {8: torch.int64, 4: torch.int32, 2: torch.int16}[a.element_size()]
    same = a.contiguous().view(number) == b.contiguous().view(number)
    return bool((same | (a.isnan() & b.isnan())).all())


def passes(row: Activation) -> list[tuple[Any, int]]:
    """The operators that give new tensors, and how many tensors each takes."""
    found = [
        (row.value, 1),
        (row.derivative, 1),
        (row.with_derivative, 1),
        (row.backward, 2),
        (row.second, 2),
    ]
    if row.saves_output:
        found += [(row.backward_of_output, 2), (row.second_of_output, 2)]
    return found
