"""What optimizers change: the difference that a step makes to some elements of each parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from gradkern.monitor.measuring import measure
from gradkern.monitor.record import LEAST_SAMPLES

UpdateMode = Literal["sampled", "exact"] | None

ELEMENTS_PER_TENSOR = 4096
SHARE_OF_ALL = 0.005
# SageMaker Debugger's rule UnchangedTensor compares with these.
_RTOL, _ATOL = 1e-5, 1e-8


def sample_sizes(numels: Sequence[int]) -> list[int]:
    """How many elements of each tensor are sampled.

    At most 4096 of a tensor and 0.5% of all elements together; what small tensors leave goes to
    larger ones. Of a small model the smallest tensors, its biases, get none, where the others would
    get too few to say anything.

    Args:
        numels: number of elements of each tensor.

    Returns:
        As many numbers.

    Example:
        >>> from gradkern.monitor.updates import sample_sizes
        >>> sample_sizes([10_000_000, 100]), sample_sizes([3000, 3000])
        ([4096, 100], [15, 15])
        >>> sample_sizes([1000, 10])
        [5, 0]
    """
    budget = int(SHARE_OF_ALL * sum(numels))
    sizes = [0] * len(numels)
    affordable = budget // LEAST_SAMPLES
    by_size = sorted(range(len(numels)), key=lambda i: numels[i])
    wanted = by_size[max(len(by_size) - affordable, 0) :]
    for position, i in enumerate(wanted):
        fair = budget // (len(wanted) - position)
        sizes[i] = min(numels[i], ELEMENTS_PER_TENSOR, fair)
        budget -= sizes[i]
    return sizes


def _stride(numel: int, size: int, row: int) -> int:
    """The distance of samples: the strata's length, made coprime to a row's, so that samples don't
    all fall into the same columns.
    """
    stride = numel // size
    while stride > 1 and math.gcd(stride, max(row, 1)) > 1:
        stride -= 1
    return stride


class UpdateMeter:
    """Remembers elements of parameters before the optimizers step, and measures what changed.

    The samples are one element of each of equally long stretches of a parameter's memory, the
    same ones at every step.

    Args:
        mode: ``"sampled"``; ``"exact"``: all elements, for the memory of the parameters; None.
    """

    def __init__(self, mode: UpdateMode = "sampled") -> None:
        if mode not in ("sampled", "exact", None):
            raise ValueError(f"updates is {mode!r}; it must be 'sampled', 'exact' or None")
        self.mode = mode
        self._before: dict[torch.device, tuple[list[int], list[int], Tensor]] = {}
        # Making the views takes longer than reading what they show. They keep the memory alive that
        # they are of, so that an address says whether a parameter still lies there.
        self._places: list[tuple[int, int]] = []
        self._views: dict[torch.device, tuple[list[int], list[Tensor]]] = {}

    def remember(self, parameters: Sequence[nn.Parameter]) -> None:
        """Takes the elements as they are before the step."""
        self._before = self._gather(parameters) if self.mode else {}

    @property
    def remembers(self) -> bool:
        return bool(self._before)

    def bytes_for(self, parameters: Sequence[nn.Parameter]) -> int:
        """What :meth:`remember` holds of these parameters."""
        if self.mode is None:
            return 0
        numels = [p.numel() for p in parameters]
        chosen = sample_sizes(numels) if self.mode == "sampled" else numels
        return sum(
            size * (8 if p.dtype == torch.float64 else 4)
            for size, p in zip(chosen, parameters, strict=True)
        )

    def forget(self) -> None:
        """Drops what was taken, and all that belongs to parameters."""
        self._before = {}
        self._places, self._views = [], {}

    def measure(self, parameters: Sequence[nn.Parameter]) -> list[tuple[list[int], Tensor, Tensor]]:
        """What has changed since :meth:`remember`, which is forgotten.

        Returns:
            For each device the indices of its parameters; the statistics of their updates, float64
            ``[n, 8]``; and those of the excess of ``|dw|`` over 1e-8 + 1e-5 ``|w|``, whose elements
            are all 0 where a parameter has not moved.
        """
        results = []
        with torch.no_grad():
            for device, (indices, sizes, current) in self._gather(parameters).items():
                if device not in self._before:
                    continue
                known, known_sizes, before = self._before[device]
                if (known, known_sizes) != (indices, sizes):
                    continue  # parameters came or went within the step
                before.neg_().add_(current)
                excess = before.abs().sub_(current.abs_().mul_(_RTOL).add_(_ATOL)).clamp_(min=0)
                parts = [*torch.split(before, sizes), *torch.split(excess, sizes)]
                for _, rows in measure(parts):
                    results.append((indices, rows[: len(indices)], rows[len(indices) :]))
        self._before = {}
        return results

    def _gather(
        self, parameters: Sequence[nn.Parameter]
    ) -> dict[torch.device, tuple[list[int], list[int], Tensor]]:
        places = [(id(p), p.data_ptr()) for p in parameters]
        # A parameter with gaps is sampled from a copy, which is as old as it is.
        if places != self._places or not all(map(_is_dense, parameters)):
            self._places, self._views = places, self._views_of(parameters)
        with torch.no_grad():
            return {
                device: (indices, [v.numel() for v in views], _in_float(torch.cat(views)))
                for device, (indices, views) in self._views.items()
            }

    def _views_of(
        self, parameters: Sequence[nn.Parameter]
    ) -> dict[torch.device, tuple[list[int], list[Tensor]]]:
        """For each device the indices of its parameters, and the elements that are sampled."""
        numels = [p.numel() for p in parameters]
        chosen = sample_sizes(numels) if self.mode == "sampled" else numels
        by_device: dict[torch.device, tuple[list[int], list[Tensor]]] = {}
        for i, (parameter, size) in enumerate(zip(parameters, chosen, strict=True)):
            if size == 0 or not parameter.is_floating_point() or parameter.is_meta:
                continue
            indices, views = by_device.setdefault(parameter.device, ([], []))
            indices.append(i)
            views.append(_view(parameter.detach(), size))
        return by_device


def _in_float(flat: Tensor) -> Tensor:
    return flat if flat.dtype == torch.float64 else flat.float()


def _view(tensor: Tensor, size: int) -> Tensor:
    """`size` elements, evenly over the tensor's memory, without a copy where it is dense."""
    if tensor.is_contiguous():
        row = tensor.shape[-1] if tensor.dim() else 1
        return tensor.as_strided((size,), (_stride(tensor.numel(), size, row),))
    in_memory = _in_memory_order(tensor)
    row = in_memory.shape[-1]
    if in_memory.is_contiguous():
        return in_memory.as_strided((size,), (_stride(tensor.numel(), size, row),))
    flat = in_memory.reshape(-1)
    return flat[:: _stride(flat.numel(), size, row)][:size]


def _in_memory_order(tensor: Tensor) -> Tensor:
    """A transposed or channels-last tensor is contiguous in another order of axes."""
    return tensor.permute(sorted(range(tensor.dim()), key=tensor.stride, reverse=True))


def _is_dense(tensor: Tensor) -> bool:
    return tensor.is_contiguous() or _in_memory_order(tensor).is_contiguous()
