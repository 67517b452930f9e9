"""What was measured in a step of training: plain numbers on the host, for rules and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradkern.stats import COLUMNS

Floats = NDArray[np.float64]

_COLUMN = {name: i for i, name in enumerate(COLUMNS)}
COUNT, SUM, SQUARES, LARGEST, SMALLEST, ZEROS, NANS, INFS = range(len(COLUMNS))

# Of fewer sampled elements nothing can be said about the others.
LEAST_SAMPLES = 4


@dataclass(frozen=True)
class StatTable:
    """The eight statistics of named tensors on the host, as :class:`gradkern.TensorStats` has them.

    Args:
        names: one for each row.
        values: float64, shape ``[n, 8]``, in the order of ``TensorStats.columns``; a row of NaN
            where nothing was measured.

    Example:
        >>> from gradkern.monitor import StatTable
        >>> rows = gradkern.tensor_stats([torch.tensor([3.0, -4.0])]).values.numpy()
        >>> StatTable(("weight",), rows).norm
        array([5.])
    """

    names: tuple[str, ...]
    values: Floats

    def __len__(self) -> int:
        return len(self.names)

    def column(self, name: str) -> Floats:
        """One of the eight measured statistics, float64, shape ``[n]``."""
        return self.values[:, _COLUMN[name]]

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Which rows hold a measurement."""
        return ~np.isnan(self.column("count"))

    @cached_property
    def norm(self) -> Floats:
        """2-norms: NaN where an element is NaN, infinite where one is infinite."""
        norm = np.sqrt(self.column("sum_squares"))
        norm = np.where(self.column("infs") > 0, np.inf, norm)
        return _shared(np.where(self.column("nans") > 0, np.nan, norm))

    @cached_property
    def rms(self) -> Floats:
        """Root mean squares of the finite elements; NaN without one."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return _shared(np.sqrt(self.column("sum_squares") / self._finite))

    @cached_property
    def mean(self) -> Floats:
        """Means of the finite elements; NaN without one."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return _shared(self.column("sum") / self._finite)

    @cached_property
    def std(self) -> Floats:
        """Standard deviations of the finite elements (divided by n); NaN without one."""
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = self.column("sum_squares") / self._finite - self.mean**2
        return _shared(np.sqrt(np.maximum(variance, 0.0)))

    @cached_property
    def nonfinite(self) -> Floats:
        """How many elements are NaN or infinite; 0 where nothing was measured."""
        return _shared(np.nan_to_num(self.column("nans") + self.column("infs")))

    @cached_property
    def _finite(self) -> Floats:
        return _shared(self.column("count") - self.column("nans") - self.column("infs"))

    def only(self, chosen: NDArray[np.bool_]) -> StatTable:
        """The rows for which `chosen`, bool of shape ``[n]``, is true."""
        kept = tuple(name for name, keep in zip(self.names, chosen, strict=True) if keep)
        return StatTable(kept, self.values[chosen])


def _shared(values: Floats) -> Floats:
    """Computed once for all rules, none of which may then write to it."""
    values.setflags(write=False)
    return values


def merged(parts: Sequence[Floats]) -> Floats:
    """One row of statistics from one or more partial ones."""
    if len(parts) == 1:
        return parts[0]
    rows = np.stack(parts)
    row: Floats = rows.sum(axis=0)
    row[LARGEST] = rows[:, LARGEST].max()
    row[SMALLEST] = rows[:, SMALLEST].min()
    return row


def unmeasured(count: int) -> Floats:
    """Rows for tensors of which nothing was measured: NaN, shape ``[count, 8]``."""
    return np.full((count, len(COLUMNS)), np.nan)


@dataclass(frozen=True)
class ActivationTable:
    """What modules put out in one step; all arrays have shape ``[m]``.

    Attributes:
        stats: the eight statistics of each output.
        kinds: the class name of the module, such as ``"Sigmoid"``, or of the activation function
            that is fused into it.
        mean_abs: mean magnitude of the outputs; of a sample of them, as the next three.
        saturated: share of the outputs in the flat ends of a sigmoid or tanh; NaN for other kinds.
        derivative: mean derivative of the activation function; NaN where it has none to know of.
        dead: share of the units that were active on less than 1% of the samples of the last
            steps; NaN for kinds whose units can't die.
    """

    stats: StatTable
    kinds: tuple[str, ...]
    mean_abs: Floats
    saturated: Floats
    derivative: Floats
    dead: Floats

    @property
    def names(self) -> tuple[str, ...]:
        return self.stats.names

    def __len__(self) -> int:
        return len(self.stats)

    @classmethod
    def empty(cls) -> ActivationTable:
        """A table of nothing."""
        none = np.empty(0)
        return cls(StatTable((), np.empty((0, len(COLUMNS)))), (), none, none, none, none)


@dataclass(frozen=True)
class StepRecord:
    """One judged step of training.

    Attributes:
        step: counted from 1.
        loss: as it was given to :meth:`gradkern.Monitor.step`; NaN where none was.
        learning_rates: one for each parameter group of each optimizer.
        total_norm_before, total_norm_after: of all gradients, before and after clipping. They are
            equal where nothing clips. NaN without gradients.
        clip_coefficient: what the gradients were multiplied with; 1 where nothing was clipped, NaN
            where an order of norm other than 2 or another library's clipping leaves it unknown.
        stepped: whether an optimizer changed the parameters (``GradScaler`` skips steps).
        gradients: of the parameters that are trained, before clipping and without a loss scale.
        parameters: after the step.
        updates: what the optimizers' steps added to the parameters: of the sampled elements.
        unchanged: bool of shape ``[n]``: no sampled element moved by more than 1e-8 + 1e-5 ``|w|``
            (of four or more).
        activations: what modules put out.
        values_per_channel: for each batch norm, how many values a channel's mean was taken over.
        decades_per_time_step: for each recurrent module, how the gradient changes per time step on
            its way back (log10; below 0 it vanishes), where it was measured in this step.
    """

    step: int
    loss: float
    learning_rates: tuple[float, ...]
    total_norm_before: float
    total_norm_after: float
    clip_coefficient: float
    stepped: bool
    gradients: StatTable
    parameters: StatTable
    updates: StatTable
    unchanged: NDArray[np.bool_]
    activations: ActivationTable
    values_per_channel: Mapping[str, int] = field(default_factory=dict)
    decades_per_time_step: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def update_ratio(self) -> Floats:
        """std(dw) / std(w) for each parameter; NaN where w is constant or dw too little known."""
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = self.updates.std / self.parameters.std
        known = np.isfinite(ratio) & (self.updates.column("count") >= LEAST_SAMPLES)
        return _shared(np.where(known, ratio, np.nan))

    def summary(self) -> dict[str, Any]:
        """The numbers of the step as a whole, by name."""
        return {
            "step": self.step,
            "loss": self.loss,
            "learning_rate": self.learning_rates[0] if self.learning_rates else float("nan"),
            "total_norm_before_clipping": self.total_norm_before,
            "total_norm_after_clipping": self.total_norm_after,
            "clip_coefficient": self.clip_coefficient,
        }
