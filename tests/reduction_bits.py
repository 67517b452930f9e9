"""The bits of every reduction on fixed data, so that runs under other conditions can be compared.

As a script it prints them as JSON; the tests run it under each instruction set, and call
`reduction_bits` themselves with other thread counts and other alignments.
"""

from __future__ import annotations

import json
import math
import sys

import torch
from exact_reference import ALL_DTYPES
from torch import Tensor

import gradkern

ORDERS = (0, 0.5, 1, 2, 3, 3.5, math.inf, -math.inf, -1, -2.5)
NAMED_ORDERS = (0, 1, 2, 3.5, math.inf)  # of each tensor by itself
# Around the widths of vectors, unrolled loops and chunks, and one that takes several chunks.
SIZES = (1, 3, 7, 17, 64, 255, 1025, 16385, 70_001)


def fixed_values(size: int, dtype: torch.dtype) -> Tensor:
    """Normal values of very different magnitudes, the same on every machine."""
    generator = torch.Generator().manual_seed(size)
    shape = (size, 2) if dtype.is_complex else (size,)
    values = torch.randint(-(2**24), 2**24, shape, generator=generator).double()
    values *= 2.0 ** torch.randint(-30, -10, shape, generator=generator).double()
    return torch.view_as_complex(values).to(dtype) if dtype.is_complex else values.to(dtype)


def placed(values: Tensor, offset: int) -> Tensor:
    """The same values, beginning `offset` elements into their memory."""
    buffer = torch.empty(values.numel() + offset, dtype=values.dtype)
    buffer[offset:] = values
    return buffer[offset:]


def reduction_bits(offset: int = 0) -> dict[str, list[str]]:
    """Hexadecimal float64 results by dtype and reduction."""
    bits: dict[str, list[str]] = {}
    for dtype in ALL_DTYPES:
        tensors = [placed(fixed_values(size, dtype), offset) for size in SIZES]
        # A float64 tensor beside them makes the total float64, so that every bit of it is seen.
        wide = [*tensors, torch.ones(1, dtype=torch.float64)]
        for order in ORDERS:
            bits[f"{dtype} total of order {order}"] = hexadecimal(
                gradkern.get_total_norm(wide, order)
            )
        named = {str(i): tensor for i, tensor in enumerate(tensors)}
        for order in NAMED_ORDERS:
            norms = gradkern.param_norms(named, order).norms
            bits[f"{dtype} each norm of order {order}"] = hexadecimal(norms)
        bits[f"{dtype} statistics"] = hexadecimal(gradkern.tensor_stats(tensors).values)
        for tensor in tensors[3:]:
            tensor[1], tensor[5], tensor[-1] = math.nan, math.inf, -math.inf
        bits[f"{dtype} statistics with non-finite values"] = hexadecimal(
            gradkern.tensor_stats(tensors).values
        )
    return bits


def hexadecimal(*results: Tensor) -> list[str]:
    return [float(x).hex() for result in results for x in result.reshape(-1).double()]


if __name__ == "__main__":
    isa = gradkern.build_info()["cpu_isa"]
    json.dump({"cpu_isa": isa, "bits": reduction_bits()}, sys.stdout)
