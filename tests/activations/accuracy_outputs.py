"""Every pass of every activation on fixed inputs, saved to a file.

    GRADKERN_CPU_ISA=avx2 python tests/activations/accuracy_outputs.py FILE

A process has one instruction set: the tests run this once for each and judge the files.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from torch import Tensor

import gradkern
from gradkern.activations import TABLE, Activation

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from activation_reference import Parameters, parameter_sets

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SPECIAL = (0.0, -0.0, math.inf, -math.inf, math.nan)


def inputs(dtype: torch.dtype, defaults: bool) -> Tensor:
    """Every 16-bit number; of the wider types all exponents, and densely where functions bend.

    Parameters other than the defaults are tried on a part of that.
    """
    if dtype in (torch.bfloat16, torch.float16):
        every = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype)
        return every if defaults else every[::5]
    generator = torch.Generator().manual_seed(1)

    def uniform(count: int, low: float, high: float) -> Tensor:
        share = count if defaults else count // 5
        return torch.rand(share, generator=generator, dtype=torch.float64) * (high - low) + low

    if dtype == torch.float32:
        step = 32771 if defaults else 131101  # prime: the bits below an exponent differ as well
        patterns = torch.arange(0, 2**32, step).to(torch.int32).view(dtype)
        parts = [uniform(50_000, -20, 20), uniform(10_000, -2, 1), uniform(20_000, -120, 100)]
        return torch.cat([patterns, *(p.float() for p in parts), torch.tensor(SPECIAL)])
    exponents = uniform(400, -1074, 1024)
    magnitudes = torch.exp2(exponents) * (1 + uniform(400, 0, 1)).clamp(max=1.999)
    signs = torch.sign(uniform(400, -1, 1))
    return torch.cat(
        [
            magnitudes * signs,
            uniform(300, -20, 20),
            uniform(200, -2, 1),
            uniform(100, -38, -30),
            uniform(100, -760, -690),
            torch.tensor(SPECIAL, dtype=dtype),
        ]
    )


def signs_like(x: Tensor) -> Tensor:
    """A gradient of 1 and -1, so that a backward pass shows the derivative itself."""
    grad = torch.ones_like(x)
    grad[::2] = -1
    return grad


def key(row: Activation, parameters: Parameters, dtype: torch.dtype, what: str) -> str:
    return f"{row.name}{parameters} {dtype} {what}"


def outputs() -> dict[str, Tensor]:
    results = {}
    for row in TABLE.values():
        for number, parameters in enumerate(parameter_sets(row)):
            for dtype in DTYPES:
                x = inputs(dtype, defaults=number == 0)
                grad = signs_like(x)
                value = row.value(x, *parameters)
                both = row.with_derivative(x, *parameters)
                passes = {
                    "value": value,
                    "derivative": row.derivative(x, *parameters),
                    "value of both": both[0],
                    "derivative of both": both[1],
                    "backward": row.backward(grad, x, *parameters) * grad,
                    "second": row.second(grad, x, *parameters) * grad,
                }
                if row.can_save_output(parameters):
                    backward = row.backward_of_output(grad, value, *parameters)
                    passes["backward of output"] = backward * grad
                for what, result in passes.items():
                    results[key(row, parameters, dtype, what)] = result
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.save({"isa": gradkern.build_info()["cpu_isa"], "outputs": outputs()}, sys.argv[1])
