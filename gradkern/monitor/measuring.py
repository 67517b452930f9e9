"""Statistics of any mixture of tensors: those that there are kernels for, device by device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradkern import ops
from gradkern.tensor_lists import PLAIN_TYPES

# That there are kernels for; asked of every tensor at every step.
_DTYPES = frozenset(
    (
        *(torch.float32, torch.float64, torch.bfloat16, torch.float16),
        *(torch.complex64, torch.complex128),
    )
)
_DEVICES = frozenset(("cpu", "cuda"))


def measure(tensors: Sequence[Tensor]) -> list[tuple[list[int], Tensor]]:
    """One ``tensor_stats`` call for each device.

    Args:
        tensors: any; integer, sparse and empty ones, subclasses and those on devices without
            kernels are left out.

    Returns:
        For each device the indices of its tensors, and their statistics: float64, ``[n, 8]``.

    Example:
        >>> from gradkern.monitor.measuring import measure
        >>> [(indices, rows)] = measure([torch.arange(3), torch.tensor([2.0])])
        >>> indices, rows[0, 2]
        ([1], tensor(4., dtype=torch.float64))
    """
    by_device: dict[torch.device, list[int]] = {}
    for i, tensor in enumerate(tensors):
        if _has_kernels(tensor):
            by_device.setdefault(tensor.device, []).append(i)
    with torch.no_grad():
        return [
            (indices, ops.call(ops.tensor_stats, [tensors[i] for i in indices]))
            for indices in by_device.values()
        ]


def _has_kernels(tensor: Tensor) -> bool:
    return (
        type(tensor) in PLAIN_TYPES
        and tensor.dtype in _DTYPES
        and tensor.layout is torch.strided
        and tensor.device.type in _DEVICES
        and tensor.numel() > 0
    )
