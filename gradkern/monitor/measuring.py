"""Statistics of any mixture of tensors: those that there are kernels for, device by device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradkern import ops
from gradkern.tensor_lists import are_plain


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
            (indices, ops.call(ops.tensor_stats, [tensors[i].detach() for i in indices]))
            for indices in by_device.values()
        ]


def _has_kernels(tensor: Tensor) -> bool:
    return (
        are_plain((tensor,))
        and tensor.layout == torch.strided
        and tensor.device.type in ("cpu", "cuda")
        and (tensor.is_floating_point() or tensor.is_complex())
        and tensor.element_size() > 1
        and tensor.numel() > 0
    )
