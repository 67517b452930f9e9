"""The seam for modules that measure their own output, in the pass that computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class OutputStatistics:
    """What a module knows about an output it has just computed; all on the output's device.

    Attributes:
        values: the eight statistics of the output, float64 of shape ``[8]``, in the order of
            :attr:`gradkern.TensorStats.columns`.
        mean_abs: mean magnitude, 0-dim; None where it is not known: the root mean square stands for
            it.
        saturated: share of the elements in the flat ends of the activation function, 0-dim; None
            for functions without flat ends.
        derivative: mean derivative of the activation function, 0-dim; None where there is none.
        active: for each unit, on how many samples it was active, float64 of shape ``[units]``; None
            for functions whose units can't die.
        samples: how many samples each unit was given; for ``active``.
    """

    values: Tensor
    mean_abs: Tensor | None = None
    saturated: Tensor | None = None
    derivative: Tensor | None = None
    active: Tensor | None = None
    samples: int = 0


@runtime_checkable
class MeasuresOutput(Protocol):
    """A module that measures its output at no extra pass over memory.

    :class:`gradkern.Monitor` asks such a module instead of reading its output. It is a structural
    type: a module with these two methods is one.
    """

    def measure_output(self, enabled: bool) -> None:
        """Start (or stop) measuring, from the next forward on."""

    def output_statistics(self) -> OutputStatistics | None:
        """The statistics of the last forward's output; None if it was not measured."""
