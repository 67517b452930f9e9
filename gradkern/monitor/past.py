"""What rules may look back on: bounded windows of earlier steps."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from gradkern.monitor.record import ActivationTable, Floats, StepRecord

# Longer than any rule's window.
WINDOW = 256
WEIGHT_WINDOW = 20
STALL_STEPS = 200
STALL_IMPROVEMENT = 0.01
CONVERGED_SHARE = 0.1
LEARNT_SHARE = 0.5
_AVERAGED = 50


class Past:
    """The last steps, including the one that is being judged.

    Attributes:
        steps: how many there were.
        first_weights: rms of each parameter at the first step, shape ``[n]``.
        first_outputs: what modules put out at the first step.
        largest_norm: the largest finite total norm, after clipping, that an optimizer was given.
        time_slopes: for each recurrent module the last measured decades per time step.
        first_loss: the median of the first five losses: one of them may overshoot by far.
        recent_loss: the median of the last 50 losses, or fewer where there are fewer.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._totals: deque[float] = deque(maxlen=WINDOW)
        self._clipped: deque[bool] = deque(maxlen=WINDOW)
        self._weights: deque[Floats] = deque(maxlen=WEIGHT_WINDOW)
        self.first_weights: Floats = np.empty(0)
        self.names: tuple[str, ...] = ()
        self._first_losses: list[float] = []
        self.first_outputs = ActivationTable.empty()
        self.largest_norm = 0.0
        self.time_slopes: dict[str, float] = {}
        self._level_losses()

    def add(self, record: StepRecord) -> None:
        """Takes one step in."""
        self.steps += 1
        self._losses.append(record.loss)
        self._totals.append(record.total_norm_before)
        self._clipped.append(record.clip_coefficient < 1)
        if record.stepped and np.isfinite(record.total_norm_after):
            self.largest_norm = max(self.largest_norm, record.total_norm_after)
        weights = record.parameters.rms
        if self.names != record.parameters.names:  # parameters came or went: start over
            self.names = record.parameters.names
            self.first_weights = weights
            self._weights.clear()
        self._weights.append(weights)
        if not len(self.first_outputs):
            self.first_outputs = record.activations
        self.time_slopes.update(record.decades_per_time_step)
        if len(self._first_losses) < 5 and np.isfinite(record.loss):
            self._first_losses.append(record.loss)
        self._level_losses()

    def _level_losses(self) -> None:
        # Once a step: most rules ask for them.
        self.first_loss = _median(self._first_losses)
        self.recent_loss = _median(list(self._losses)[-_AVERAGED:])

    @property
    def losses(self) -> Floats:
        """The last losses, at most 256, the newest last."""
        return np.array(self._losses)

    @property
    def total_norms(self) -> Floats:
        """The last total norms before clipping, at most 256, the newest last."""
        return np.array(self._totals)

    def clipped(self, steps: int) -> Floats:
        """For each of the last `steps` steps 1 where it was clipped, else 0."""
        return np.array(self._clipped, dtype=float)[-steps:]

    def weights(self, steps: int) -> Floats:
        """rms of each parameter over the last `steps` steps, shape ``[steps, n]``."""
        return np.stack(list(self._weights)[-steps:])

    @property
    def has_loss(self) -> bool:
        return bool(self._first_losses)

    @property
    def converged(self) -> bool:
        """Whether the loss is below a tenth of what it was at the start."""
        return self.has_loss and self.recent_loss < CONVERGED_SHARE * self.first_loss

    @property
    def learnt(self) -> bool:
        """Whether the loss is below half of what it was at the start."""
        return self.has_loss and self.recent_loss < LEARNT_SHARE * self.first_loss

    @property
    def improvement(self) -> float:
        """By what share the loss has become better in 200 steps; NaN before that many."""
        losses = self.losses
        if len(losses) < STALL_STEPS:
            return float("nan")
        window = losses[-STALL_STEPS:]
        before, now = np.median(window[:_AVERAGED]), np.median(window[-_AVERAGED:])
        return float((before - now) / abs(before)) if before else 0.0

    @property
    def stalled(self) -> bool:
        """Whether the loss is less than 1% better than 200 steps ago, and not near its end.

        Without a loss, whether 200 steps have passed.
        """
        if not self.has_loss:
            return self.steps >= STALL_STEPS
        if self.steps >= STALL_STEPS and not np.isfinite(self.improvement):
            return True
        return self.improvement < STALL_IMPROVEMENT and not self.converged

    @property
    def bytes(self) -> int:
        """What the windows take."""
        return sum(w.nbytes for w in self._weights) + self.first_weights.nbytes + 3 * 32 * WINDOW

    def state_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "steps": self.steps,
            "losses": list(self._losses),
            "totals": list(self._totals),
            "clipped": list(self._clipped),
            "weights": [w.tolist() for w in self._weights],
            "first_weights": self.first_weights.tolist(),
            "names": list(self.names),
            "first_losses": list(self._first_losses),
            "largest_norm": self.largest_norm,
            "time_slopes": dict(self.time_slopes),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there. (What modules put out first is taken anew.)"""
        self.steps = state["steps"]
        self._losses.extend(state["losses"])
        self._totals.extend(state["totals"])
        self._clipped.extend(state["clipped"])
        self._weights.extend(np.array(w) for w in state["weights"])
        self.first_weights = np.array(state["first_weights"])
        self.names = tuple(state["names"])
        self._first_losses = list(state["first_losses"])
        self.largest_norm = state["largest_norm"]
        self.time_slopes = dict(state["time_slopes"])
        self._level_losses()


def _median(losses: list[float]) -> float:
    return float(np.median(losses)) if losses else float("nan")
