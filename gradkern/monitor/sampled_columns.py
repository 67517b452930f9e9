"""What the eight statistics of outputs don't tell, from samples: alike ones are measured as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradkern.monitor.activation_kinds import ActivationKind

SAMPLED = ("mean_abs", "saturated", "derivative", "silent")
"""The columns."""


@dataclass(frozen=True)
class Sample:
    """Some elements of an output, of every unit as many.

    Attributes:
        elements: float32.
        unit_axis: of the units.
        kind: of the activation function that made them.
    """

    elements: Tensor
    unit_axis: int
    kind: ActivationKind


@dataclass(frozen=True)
class SampledColumns:
    """The measurements of samples of one kind, shape and device.

    Attributes:
        places: where the k samples stand among those that were given.
        columns: float64 ``[k, 4]``: mean magnitude, share of saturated elements, mean derivative
            of the activation function, and share of units that are never active; NaN for what the
            kind has not.
        active: for kinds whose units can die how often each unit was active, float64
            ``[k, units]``; else None.
        samples: how many elements each unit has.
    """

    places: list[int]
    columns: Tensor
    active: Tensor | None
    samples: int


def measure_samples(samples: Sequence[Sample]) -> Iterator[SampledColumns]:
    """Measures samples, those that are alike in one go: a model's layers are alike, as a rule, and
    a dozen operator calls for each of them take longer than the layer itself where it is small.

    Example:
        >>> from gradkern.monitor.activation_kinds import kind_of
        >>> from gradkern.monitor.sampled_columns import Sample, measure_samples
        >>> relu = kind_of(torch.nn.ReLU())
        >>> outputs = torch.tensor([[0.0, 2.0], [0.0, 4.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])
        >>> [alike] = measure_samples([Sample(output, 1, relu) for output in outputs])
        >>> alike.columns[:, 0].tolist(), alike.active.tolist(), alike.samples
        ([1.5, 0.5], [[0.0, 2.0], [1.0, 1.0]], 2)
    """
    alike: dict[tuple[object, ...], list[int]] = {}
    for i, sample in enumerate(samples):
        elements = sample.elements
        key = (id(sample.kind), sample.unit_axis, elements.shape, elements.device, type(elements))
        alike.setdefault(key, []).append(i)
    for places in alike.values():
        first = samples[places[0]]
        stacked = torch.stack([samples[i].elements for i in places])
        columns, active = measure_stacked(stacked, first.unit_axis, first.kind)
        units = 1 if active is None else active[0].numel()
        yield SampledColumns(places, columns, active, first.elements.numel() // max(units, 1))


def measure_stacked(
    stacked: Tensor, unit_axis: int, kind: ActivationKind
) -> tuple[Tensor, Tensor | None]:
    """The columns and the counts of activity of samples that lie along the first axis."""
    count = stacked.shape[0]
    nan = stacked.new_full((count,), torch.nan)
    active = None
    silent = nan
    if kind.can_die:
        axes = [axis + 1 for axis in range(stacked.dim() - 1) if axis != unit_axis]
        active = ((stacked > 0).sum(axes) if axes else stacked > 0).reshape(count, -1).double()
        silent = _means(active == 0)
    columns = (
        _means(stacked.abs()),
        nan if kind.saturated is None else _means(kind.saturated(stacked)),
        nan if kind.derivative is None else _means(kind.derivative(stacked)),
        silent,
    )
    return torch.stack(columns, dim=1).double(), active


def _means(stacked: Tensor) -> Tensor:
    """Of each sample."""
    return stacked.reshape(stacked.shape[0], -1).mean(1, dtype=torch.float32)
