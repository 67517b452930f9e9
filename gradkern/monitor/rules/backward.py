"""Rules about gradients on their way back through the layers, or through time."""

from __future__ import annotations

import numpy as np

from gradkern.monitor.alerts import Severity
from gradkern.monitor.rules.registry import Finding, Observation, Rule, rule

_AUTO_TRAINER = "Zhang et al., AutoTrainer, ICSE 2021"
_DEBUGGER = "SageMaker Debugger"
# A first layer that gets less than beta_1 of the last one's gradient counts as vanishing only when
# its norm is small, too.
_VANISHING_NORM = 1e-4


@rule
class Vanishing(Rule):
    """The first layer's gradient is a small part of the last one's, and small.

    An error only together with a loss that stalls: networks are known that start at ratios of 1e-10
    and learn.
    """

    name, default, unit = "vanishing", 1e-3, "norm of first / last layer"
    source = f"{_AUTO_TRAINER} (beta_1; beta_2 = {_VANISHING_NORM:g} for the norm)"
    persistence = 20
    indicates = "VANISHING"

    def observe(self, seen: Observation) -> Finding | None:
        profile = seen.gradient_profile
        ratio = profile.first_to_last
        # 0 is not small: a dead layer in between, or none that is connected.
        if not 0 < ratio < self.threshold or not profile.values[0] < _VANISHING_NORM:
            return None
        return Finding(
            profile.below(self.threshold),
            ratio,
            f"the first layer's gradient norm is {profile.values[0]:.1e}, {ratio:.1e} of the last "
            f"layer's ({profile.decades_per_layer:+.2f} decades per layer on the way back)",
            "error" if seen.past.stalled else "warning",
        )


@rule
class VanishingEverywhere(Rule):
    """A layer's gradient is tiny in itself, while the loss is where it began."""

    name, default, unit = "vanishing_absolute", 1e-7, "root mean square of the gradient"
    # The root mean square bounds the mean magnitude that the source names from above.
    source = f"{_DEBUGGER}, VanishingGradient (mean magnitude)"
    persistence = 20
    indicates = "VANISHING"

    def observe(self, seen: Observation) -> Finding | None:
        if seen.network.names != seen.record.gradients.names or seen.past.converged:
            return None
        rms = np.where(seen.network.matrices, seen.record.gradients.rms, np.nan)
        tiny = (rms < self.threshold) & (rms > 0)
        if not tiny.any():
            return None
        return Finding(
            tuple(np.array(seen.network.layers)[tiny]),
            float(rms[tiny].min()),
            f"gradients of {tiny.sum()} layers have a root mean square below {self.threshold:g}, "
            f"down to {rms[tiny].min():.1e}",
        )


@rule
class ExplodingProfile(Rule):
    """The first layer's gradient is many times the last one's."""

    name, default, unit = "exploding_profile", 70.0, "norm of first / last layer"
    source = f"{_AUTO_TRAINER} (beta_3)"
    persistence = 10
    indicates = "EXPLODING"

    def observe(self, seen: Observation) -> Finding | None:
        profile = seen.gradient_profile
        ratio = profile.first_to_last
        if not ratio > self.threshold:
            return None
        return Finding(
            profile.above(self.threshold),
            ratio,
            f"the first layer's gradient norm is {ratio:.1e} times the last layer's "
            f"({profile.decades_per_layer:+.2f} decades per layer on the way back)",
            "error" if seen.past.stalled else "warning",
        )


@rule
class DepthSlope(Rule):
    """The gradient's norm changes steadily from layer to layer."""

    name, default, unit = "depth_slope", 0.25, "decades per layer"
    source = "gradkern"
    persistence = 20
    _LEAST_LAYERS = 6  # of fewer, the slope is that of their sizes
    _NOTE = 0.08

    def observe(self, seen: Observation) -> Finding | None:
        profile = seen.gradient_profile
        slope = profile.decades_per_layer
        if len(profile.layers) < self._LEAST_LAYERS or not abs(slope) > self._NOTE:
            return None
        direction = "falls" if slope < 0 else "grows"
        return Finding(
            profile.layers,
            slope,
            f"the gradient norm {direction} by {abs(slope):.2f} decades per layer on the way back",
            "warning" if abs(slope) > self.threshold else "note",
        )


@rule
class VanishingThroughTime(Rule):
    """A recurrent module forgets: the gradient of early time steps is a small part of the last's.

    Measured by a probe, and judged together with a stalled loss, as a GRU that learns may start
    with as little.
    """

    name, default, unit = "vanishing_through_time", -0.1, "decades per time step"
    source = "Pascanu, Mikolov, Bengio 2013; the figure is gradkern's"
    indicates = "VANISHING"
    persistence = 20

    def observe(self, seen: Observation) -> Finding | None:
        if not seen.past.stalled:
            return None
        found = {n: s for n, s in seen.past.time_slopes.items() if s < self.threshold}
        if not found:
            return None
        steepest = min(found.values())
        return Finding(
            tuple(found),
            steepest,
            f"the gradient falls by {-steepest:.2f} decades per time step on its way back, and "
            "the loss stalls",
            "error",
        )


@rule
class ExplodingThroughTime(Rule):
    """The gradient of early time steps is many times the last one's."""

    name, default, unit = "exploding_through_time", 0.03, "decades per time step"
    source = "Pascanu, Mikolov, Bengio 2013; the figure is gradkern's"
    indicates = "EXPLODING"

    def observe(self, seen: Observation) -> Finding | None:
        found = {n: s for n, s in seen.past.time_slopes.items() if s > self.threshold}
        if not found:
            return None
        steepest = max(found.values())
        return Finding(
            tuple(found),
            steepest,
            f"the gradient grows by {steepest:.2f} decades per time step on its way back",
        )


@rule
class AdamBelowEps(Rule):
    """Adam's eps outweighs the gradient: it divides by eps, and moves almost nothing."""

    name, default, unit = "adam_eps", 10.0, "root mean square of the gradient / eps"
    source = "gradkern (Kingma and Ba 2015: m / (sqrt(v) + eps))"
    persistence = 20

    def observe(self, seen: Observation) -> Finding | None:
        network, gradients = seen.network, seen.record.gradients
        if network.names != gradients.names or seen.past.converged:
            return None
        with np.errstate(invalid="ignore"):
            ratio = np.where(network.matrices, gradients.rms / network.adam_eps, np.nan)
        small = (ratio < self.threshold) & (ratio > 0)
        if not small.any():
            return None
        return Finding(
            tuple(np.array(network.layers)[small]),
            float(ratio[small].min()),
            f"gradients of {small.sum()} layers are below {self.threshold:g} times the eps of "
            "their optimizer, which then hardly moves them",
        )


@rule
class GradientSpike(Rule):
    """The total norm is far outside of what it was."""

    name, default, unit = "spike", 6.0, "standard deviations"
    source = "OLMo-core (6 sigma over 128 steps)"
    indicates = "EXPLODING"
    _STEPS = 128
    _LEAST = 64
    # A factor that no noise of a batch explains; where nothing clips, one such step undoes many.
    _EXPLODED = 100.0

    def observe(self, seen: Observation) -> Finding | None:
        norms = seen.past.total_norms[-self._STEPS - 1 :]
        before, now = norms[:-1], norms[-1]
        before = before[np.isfinite(before)]
        if len(before) < self._LEAST or not np.isfinite(now):
            return None
        deviation = float(before.std())
        excess = (now - before.mean()) / deviation if deviation > 0 else 0.0
        if excess <= self.threshold:
            return None
        return Finding(
            (),
            excess,
            f"the total gradient norm is {now:.3g}, {excess:.0f} standard deviations above its "
            f"mean of {before.mean():.3g}",
            self._severity(seen, float(now / np.median(before))),
        )

    def _severity(self, seen: Observation, factor: float) -> Severity:
        clipped = seen.record.clip_coefficient < 1
        if clipped or seen.past.converged or factor < self._EXPLODED:
            return "note"
        return "error" if seen.past.stalled else "warning"


@rule
class AlwaysClipping(Rule):
    """Most steps are clipped: the limit sets the learning rate."""

    name, default, unit = "always_clipping", 0.5, "share of steps"
    source = "gradkern"
    severity = "note"
    _STEPS = 100

    def observe(self, seen: Observation) -> Finding | None:
        if seen.past.steps < self._STEPS:
            return None
        share = float(seen.past.clipped(self._STEPS).mean())
        if share <= self.threshold:
            return None
        return Finding((), share, f"{share:.0%} of the last {self._STEPS} steps were clipped")
