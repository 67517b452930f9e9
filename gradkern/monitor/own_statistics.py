"""What gradkern's own modules say of their output, in the pass that computes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from gradkern.activations import ActivationStats
from gradkern.monitor.activation_kinds import ActivationKind
from gradkern.monitor.record import Floats


@dataclass(frozen=True)
class OwnStatistics:
    """An output's statistics as the operator gives them: what follows from them is divided on the
    host, where it costs no operator call for each module.

    Attributes:
        stats: the statistics, on the output's device.
        kind: of the activation.
        bends: whether there is an activation function; without one there is no slope to report.
    """

    stats: ActivationStats
    kind: ActivationKind
    bends: bool = True

    @property
    def counts_active(self) -> bool:
        """Whether the channels' active elements say something of dead units."""
        return self.kind.can_die and self.stats.channels > 0

    @property
    def samples(self) -> int:
        """How many values each channel has."""
        return self.stats.numel // self.stats.channels

    def read(self, numbers: Floats) -> tuple[Floats, Floats]:
        """What ``stats.values`` say when they have arrived.

        Returns:
            The eight statistics of :class:`gradkern.TensorStats`; then mean magnitude (not known),
            saturated share, mean slope and share of silent units (from the counts instead), NaN
            where there is none.
        """
        names = self.stats.columns
        column = dict(zip(names, numbers[: len(names)].tolist(), strict=True))
        row = np.array(
            [
                column["count"],
                column["sum"],
                column["sum_squares"],
                column["abs_max"],
                np.inf,  # the smallest magnitude but 0 is not known
                column["zeros"],
                column["nonfinite"],
                0.0,
            ]
        )
        finite = column["count"] - column["nonfinite"]
        saturated = slope = np.nan
        # The table calls the zero side of a ReLU saturated; here that is what may be dead.
        if self.kind.saturated is not None and finite > 0:
            saturated = column["saturated"] / finite
        if self.bends and finite > 0:
            slope = column["sum_abs_derivative"] / finite
        return row, np.array([np.nan, saturated, slope, np.nan])

    def active(self, numbers: Floats) -> Floats:
        """For each channel how many of its elements are active."""
        return numbers[len(self.stats.columns) :]


class OwnModule(ABC):
    """Takes a module's statistics."""

    _last: OwnStatistics | None = None

    @abstractmethod
    def measure_output(self, enabled: bool) -> None:
        """Start (or stop) measuring, from the next forward on."""

    def own_statistics(self) -> OwnStatistics | None:
        """Of the last forward pass; None if it was not measured."""
        last, self._last = self._last, None
        return last
