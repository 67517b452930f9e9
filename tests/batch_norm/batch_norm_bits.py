"""The bits of batch normalisation's reductions on fixed data, and its errors.

As a script it prints them as JSON: the tests run it under each instruction set.
"""

from __future__ import annotations

import json
import sys

from batch_norm_reference import (
    ACTIVATIONS,
    DTYPES,
    TOLERANCE,
    Problem,
    error,
    reference,
    with_gradients,
)
from torch import Tensor

import gradkern
import gradkern.functional as G  # noqa: N812

# Planes and columns, of one chunk and of several.
SHAPES = [(5, 3, 37), (3, 2, 40_000), (300, 260), (70_000, 3)]


def statistics_bits() -> dict[str, list[str]]:
    """Hexadecimal float64 results: moments, and the sums of a gradient without an activation."""
    bits = {}
    for dtype in DTYPES:
        for shape in SHAPES:
            problem = Problem.make(shape, dtype)
            _, mean, invstd = G.batch_norm_forward(problem.x)
            _, *sums = G.batch_norm_backward(problem.grad, problem.x, None, mean, invstd)
            numbers: list[Tensor] = [mean, invstd, *sums]
            bits[f"{dtype} {shape}"] = [v.hex() for n in numbers for v in n.tolist()]
    return bits


def errors() -> dict[str, tuple[float, float]]:
    """The largest error and its limit, by dtype and activation."""
    found = {}
    for dtype in DTYPES:
        for activation in ACTIVATIONS:
            worst = 0.0
            for shape in ((6, 3, 5, 5), (9, 20)):
                problem = Problem.make(shape, dtype, residual=True)

                def function(
                    x: Tensor,
                    residual: Tensor,
                    weight: Tensor,
                    bias: Tensor,
                    name: str = activation,
                ) -> Tensor:
                    return G.batch_norm(
                        x, None, None, weight, bias, True, activation=name, residual=residual
                    )

                got, want = with_gradients(function, problem), reference(problem, activation)
                pairs = zip((got[0], *got[1]), (want[0], *want[1]), strict=True)
                worst = max(worst, *(error(mine, true) for mine, true in pairs))
            found[f"{dtype} {activation}"] = worst, TOLERANCE[dtype]
    return found


if __name__ == "__main__":
    report = {
        "cpu_isa": gradkern.build_info()["cpu_isa"],
        "bits": statistics_bits(),
        "errors": errors(),
    }
    json.dump(report, sys.stdout)
