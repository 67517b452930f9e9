"""Rules about parameters, and what optimizers do to them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradkern.monitor.depth_profile import update_profile
from gradkern.monitor.rules.registry import Finding, Observation, Rule, rule

_SEEDS = "how vanishing and exploding gradients are recognised"


def _layers(seen: Observation, chosen: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(n for n, keep in zip(seen.network.layers, chosen, strict=True) if keep)


def _aligned(seen: Observation) -> bool:
    """Whether the network's facts are of the same parameters as the record's rows."""
    return seen.network.names == seen.record.parameters.names


@rule
class UpdateTooLarge(Rule):
    """A step changes a good part of a weight."""

    name, default, unit = "update_too_large", 1e-1, "std(dw) / std(w)"
    source = "Karpathy, makemore 3 (target 1e-3); the band is gradkern's"
    persistence = 3
    indicates = "EXPLODING"
    _ERROR = 1.0

    def observe(self, seen: Observation) -> Finding | None:
        if not _aligned(seen) or not seen.record.stepped:
            return None
        ratio = np.where(seen.network.matrices, seen.record.update_ratio, np.nan)
        large = ratio > self.threshold
        if not large.any():
            return None
        largest = float(ratio[large].max())
        return Finding(
            _layers(seen, large),
            largest,
            f"a step changes {large.sum()} of {seen.network.depth} weights by more than "
            f"{self.threshold:g} of their size, up to {largest:.2g}",
        )


@rule
class UpdateTooSmall(Rule):
    """Steps hardly change a weight."""

    name, default, unit = "update_too_small", 1e-5, "std(dw) / std(w)"
    source = "Karpathy, makemore 3 (target 1e-3); the band is gradkern's"
    persistence = 50

    def observe(self, seen: Observation) -> Finding | None:
        if not _aligned(seen) or not seen.record.stepped or seen.past.converged:
            return None
        ratio = np.where(seen.network.matrices, seen.record.update_ratio, np.nan)
        small = (ratio < self.threshold) & (seen.record.gradients.measured)
        if not small.any():
            return None
        return Finding(
            _layers(seen, small),
            float(ratio[small].min()),
            f"a step changes {small.sum()} of {seen.network.depth} weights by less than "
            f"{self.threshold:g} of their size",
        )


@rule
class AdamRemembersExplosion(Rule):
    """Adam still divides by a gradient that exploded: its second moment forgets in thousands of
    steps, and moves little until then.
    """

    name, default, unit = "adam_memory", 100.0, "largest total norm so far / median of the last"
    source = "gradkern (Kingma and Ba 2015: v = b v + (1 - b) g^2, b = 0.999)"
    indicates = "EXPLODING"
    persistence = 50
    _STEPS = 128

    def observe(self, seen: Observation) -> Finding | None:
        if not _aligned(seen) or not seen.record.stepped or seen.past.converged:
            return None
        largest = seen.past.largest_norm
        median = float(np.median(seen.past.total_norms[-self._STEPS :]))
        by_adam = seen.network.matrices & np.isfinite(seen.network.adam_eps)
        still = by_adam & (seen.record.update_ratio < UpdateTooSmall.default)
        if not (still.any() and 0 < self.threshold * median < largest):
            return None
        return Finding(
            _layers(seen, still),
            largest / median,
            f"a gradient of norm {largest:.3g} was not clipped, {largest / median:.0f} times what "
            f"is usual now; Adam still divides by it, and hardly moves {still.sum()} weights",
            "error" if seen.past.stalled else "warning",
        )


@rule
class LowerLayersStandStill(Rule):
    """The layers near the input change far less than those near the loss."""

    name, default, unit = "lower_layers_still", 1e-2, "update ratio of first / last layer"
    source = f"{_SEEDS}; the figure is gradkern's"
    persistence = 20
    indicates = "VANISHING"

    def observe(self, seen: Observation) -> Finding | None:
        if not seen.record.stepped:
            return None
        profile = update_profile(seen.record, seen.network)
        ratio = profile.first_to_last
        if not ratio < self.threshold:
            return None
        return Finding(
            profile.below(self.threshold),
            ratio,
            f"a step changes the first layer by {ratio:.1e} of what it changes the last",
        )


@rule
class UnchangedWeights(Rule):
    """A weight that gets a gradient and does not move."""

    name, default, unit = "unchanged_weights", 3.0, "steps"
    source = "SageMaker Debugger, UnchangedTensor (rtol 1e-5, atol 1e-8)"
    persistence = 3

    def observe(self, seen: Observation) -> Finding | None:
        record = seen.record
        if not _aligned(seen) or not record.stepped or seen.past.converged:
            return None
        if not any(rate > 0 for rate in record.learning_rates):
            return None
        still = record.unchanged & seen.network.matrices & record.gradients.measured
        if not still.any():
            return None
        return Finding(
            _layers(seen, still),
            self.threshold,
            f"{still.sum()} of {seen.network.depth} weights did not move",
        )


@rule
class LargeWeights(Rule):
    """A weight with a large element."""

    name, default, unit = "large_weights", 5.0, "largest magnitude"
    source = "Zhang et al., AutoTrainer, ICSE 2021"
    persistence = 10
    severity = "note"

    def observe(self, seen: Observation) -> Finding | None:
        if not _aligned(seen):
            return None
        largest = seen.record.parameters.column("abs_max")
        large = (largest > self.threshold) & seen.network.matrices
        if not large.any():
            return None
        return Finding(
            _layers(seen, large),
            float(largest[large].max()),
            f"{large.sum()} of {seen.network.depth} weights have elements up to "
            f"{largest[large].max():.3g}",
        )


@rule
class CollapsingWeights(Rule):
    """Weights that have become 0."""

    name, default, unit = "collapsing_weights", 1e-3, "root mean square / that at the start"
    source = f"{_SEEDS}; the figure is gradkern's"
    severity = "error"
    persistence = 5
    indicates = "COLLAPSING"

    def observe(self, seen: Observation) -> Finding | None:
        if not _aligned(seen):
            return None
        start = seen.past.first_weights
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(seen.network.matrices, seen.record.parameters.rms / start, np.nan)
        collapsed = share < self.threshold
        if not collapsed.any():
            return None
        return Finding(
            _layers(seen, collapsed),
            float(share[collapsed].min()),
            f"{collapsed.sum()} of {seen.network.depth} weights have shrunk to less than "
            f"{self.threshold:g} of what they were at the start",
        )


@rule
class ExponentialGrowth(Rule):
    """Weights that double again and again."""

    name, default, unit = "exponential_growth", 50.0, "steps to double"
    source = f"{_SEEDS}; the figures are gradkern's"
    persistence = 20
    indicates = "EXPLODING"
    _STEPS = 20

    def observe(self, seen: Observation) -> Finding | None:
        if not _aligned(seen) or seen.past.steps < self._STEPS:
            return None
        window = seen.past.weights(self._STEPS)
        if len(window) < self._STEPS:
            return None
        with np.errstate(invalid="ignore", divide="ignore"):
            logs = np.log2(window)
            rates = np.diff(logs, axis=0)
        half = len(rates) // 2
        rate = rates.mean(axis=0)
        # Exponential: the rate doesn't fall. A weight that starts small grows fast at first, too.
        lasting = rates[half:].mean(axis=0) >= 0.9 * rates[:half].mean(axis=0)
        growing = seen.network.matrices & np.isfinite(rate) & lasting & (rate > 1 / self.threshold)
        if not growing.any():
            return None
        steps = 1 / float(rate[growing].max())
        grown = window[-1][growing] / seen.past.first_weights[growing]
        return Finding(
            _layers(seen, growing),
            steps,
            f"{growing.sum()} of {seen.network.depth} weights double within {steps:.0f} steps",
            "error" if grown.max() > 10 else "warning",
        )
