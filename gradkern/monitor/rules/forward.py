"""Rules about outputs on their way forward through the layers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradkern.monitor.alerts import Severity
from gradkern.monitor.depth_profile import output_profile
from gradkern.monitor.rules.registry import Finding, Observation, Rule, rule

_DEBUGGER = "SageMaker Debugger"


def _named(names: tuple[str, ...], chosen: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(name for name, keep in zip(names, chosen, strict=True) if keep)


@rule
class DeadUnits(Rule):
    """Units that put out 0 for nearly every sample: no gradient can bring them back."""

    name, default, unit = "dead_units", 0.5, "share of a layer's units"
    source = f"{_DEBUGGER}, DeadRelu (active on less than 1% of the samples)"
    persistence = 20
    indicates = "DEAD UNITS"
    # Beyond this nothing passes the layer.
    _ERROR = 0.9

    def observe(self, seen: Observation) -> Finding | None:
        outputs = seen.record.activations
        # After a NaN nothing is active.
        dead = (outputs.dead > self.threshold) & (outputs.stats.nonfinite == 0)
        if not dead.any():
            return None
        worst = float(outputs.dead[dead].max())
        return Finding(
            _named(outputs.names, dead),
            worst,
            f"{worst:.0%} of a layer's units were active on less than 1% of the last samples",
            "error" if worst > self._ERROR else "warning",
        )


@rule
class Saturation(Rule):
    """Sigmoids or tanhs whose outputs lie in the flat ends, where the slope is about 0."""

    name, default, unit = "saturation", 0.5, "share of outputs"
    source = "Karpathy, makemore 3 (|tanh| > .97); gradkern for the sigmoid (< .05 or > .95)"
    persistence = 20
    indicates = "SATURATED"

    def observe(self, seen: Observation) -> Finding | None:
        outputs = seen.record.activations
        # The output of a classifier that is sure of itself is saturated, and may be.
        hidden = np.array([name != seen.network.last_activation for name in outputs.names])
        flat = (outputs.saturated > self.threshold) & hidden if len(outputs) else np.zeros(0, bool)
        if not flat.any():
            return None
        worst = float(outputs.saturated[flat].max())
        return Finding(
            _named(outputs.names, flat),
            worst,
            f"up to {worst:.0%} of the outputs are saturated",
            self._severity(seen),
        )

    @staticmethod
    def _severity(seen: Observation) -> Severity:
        if seen.past.learnt:  # past the flat ends, as skip connections do
            return "note"
        return "error" if seen.past.stalled else "warning"


@rule
class PoorInitialisation(Rule):
    """The outputs' variance differs from layer to layer before anything has been learnt."""

    name, default, unit = "poor_initialisation", 10.0, "largest / smallest variance"
    source = f"{_DEBUGGER}, PoorWeightInitialization"
    persistence = 5
    _STEPS = 10

    def observe(self, seen: Observation) -> Finding | None:
        if seen.past.steps > self._STEPS:
            return None
        profile = output_profile(seen.record)
        variances = profile.values[np.isfinite(profile.values)] ** 2
        if len(variances) < 3 or not variances.min() > 0:
            return None
        ratio = float(variances.max() / variances.min())
        if ratio <= self.threshold:
            return None
        return Finding(
            profile.layers,
            ratio,
            f"the variance of the outputs differs by a factor of {ratio:.1e} between layers "
            f"({-profile.decades_per_layer:+.2f} decades of their deviation per layer)",
        )


@rule
class LargeOutputs(Rule):
    """Outputs far from 0."""

    name, default, unit = "large_outputs", 10.0, "mean magnitude of the outputs"
    source = "Zhang et al., AutoTrainer, ICSE 2021"
    persistence = 10

    def observe(self, seen: Observation) -> Finding | None:
        outputs = seen.record.activations
        # Modules that measure themselves may not know the mean magnitude.
        known = ~np.isnan(outputs.mean_abs)
        magnitudes = np.where(known, outputs.mean_abs, outputs.stats.rms)
        large = magnitudes >= self.threshold
        if not large.any():
            return None
        largest = float(magnitudes[large].max())
        return Finding(
            _named(outputs.names, large), largest, f"outputs have a mean magnitude of {largest:.3g}"
        )


@rule
class TinyBatch(Rule):
    """A batch norm whose mean and variance are taken over a handful of values."""

    name, default, unit = "tiny_batch", 8.0, "values per channel"
    source = "gradkern (a last batch of 3 rows: accuracy .967 -> .58 on digits)"
    severity = "error"
    indicates = "TINY BATCH"

    def observe(self, seen: Observation) -> Finding | None:
        values = seen.record.values_per_channel
        tiny = {name: n for name, n in values.items() if n < self.threshold}
        if not tiny:
            return None
        fewest = min(tiny.values())
        return Finding(
            tuple(tiny),
            float(fewest),
            f"a batch norm takes its mean and variance over {fewest} values per channel",
        )
