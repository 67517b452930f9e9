"""A step that has been measured and whose numbers are on their way to the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradkern.monitor.activations import ActivationMeasurements, ActivationMeter
from gradkern.monitor.gradients import GradientMeasurements
from gradkern.monitor.host_copy import HostCopy
from gradkern.monitor.network import Network
from gradkern.monitor.record import (
    COUNT,
    LEAST_SAMPLES,
    ZEROS,
    ActivationTable,
    Floats,
    StatTable,
    StepRecord,
    unmeasured,
)
from gradkern.monitor.recurrence import slopes


@dataclass
class StepInFlight:
    """What was measured in a step, and what is needed to read it."""

    step: int
    loss: float | None
    loss_is_tensor: bool
    learning_rates: tuple[float | None, ...]
    """None for one that is a tensor."""
    stepped: bool
    network: Network
    index: dict[int, int]
    gradients: GradientMeasurements
    parameters: list[list[int]]
    updates: list[list[int]]
    outputs: ActivationMeasurements
    probed: list[str]
    copy: HostCopy
    lengths: tuple[int, ...]
    """How many of the copied arrays belong to what, in the order of the fields above."""

    def read(self, meter: ActivationMeter | None) -> StepRecord:
        """The numbers of the step, once they have arrived.

        Args:
            meter: that measured the outputs, if any did; it keeps count of active units.
        """
        arrays = self.copy.read()
        groups: list[list[Floats]] = []
        for length in self.lengths:
            groups.append(arrays[:length])
            arrays = arrays[length:]
        of_gradients, of_parameters, of_updates, of_outputs, of_probes, scalars = groups
        names = self.network.names
        gradients = self.gradients.read(of_gradients, self.index, len(names))
        moved, excess = of_updates[::2], of_updates[1::2]
        still = _rows(self.updates, excess, len(names))
        numbers = iter(scalars)
        rates = tuple(
            float(next(numbers)) if rate is None else rate for rate in self.learning_rates
        )
        loss = float(next(numbers)) if self.loss_is_tensor else self.loss
        return StepRecord(
            step=self.step,
            loss=float("nan") if loss is None else loss,
            learning_rates=rates,
            total_norm_before=gradients.total_before,
            total_norm_after=gradients.total_after,
            clip_coefficient=gradients.coefficient,
            stepped=self.stepped and gradients.did_step,
            gradients=StatTable(names, gradients.values),
            parameters=StatTable(names, _rows(self.parameters, of_parameters, len(names))),
            updates=StatTable(names, _rows(self.updates, moved, len(names))),
            unchanged=(still[:, ZEROS] == still[:, COUNT]) & (still[:, COUNT] >= LEAST_SAMPLES),
            activations=(
                ActivationTable.empty() if meter is None else meter.read(self.outputs, of_outputs)
            ),
            values_per_channel=self.outputs.values_per_channel,
            decades_per_time_step=slopes(self.probed, iter(of_probes)),
        )


def _rows(indices: Sequence[Sequence[int]], parts: Sequence[Floats], count: int) -> Floats:
    """Rows of several devices in the order of the parameters; NaN where there are none."""
    values = unmeasured(count)
    for listed, part in zip(indices, parts, strict=True):
        values[listed] = part
    return values
