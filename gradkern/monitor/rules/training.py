"""Rules about the training as a whole."""

from __future__ import annotations

import numpy as np

from gradkern.monitor.rules.registry import Finding, Observation, Rule, rule

_SEEDS = "how exploding gradients are recognised"


@rule
class NonFinite(Rule):
    """NaN or infinity, anywhere."""

    name, default, unit = "non_finite", 0.0, "elements"
    source = "SageMaker Debugger, ExplodingTensor"
    severity = "error"
    indicates = "NON-FINITE"

    def observe(self, seen: Observation) -> Finding | None:
        record = seen.record
        found: list[str] = []
        layers: tuple[str, ...] = ()
        count = 0.0
        # GradScaler skips a step whose gradients overflowed: that's how it finds its scale.
        tables = [("gradients", record.gradients)] if record.stepped else []
        tables += [("parameters", record.parameters), ("outputs", record.activations.stats)]
        for what, table in tables:
            bad = table.nonfinite > self.threshold
            if bad.any():
                layers = layers or table.only(bad).names
                count += float(table.nonfinite.sum())
                found.append(f"{what} of {bad.sum()} of {len(table)}")
        if not (np.isfinite(record.loss) or (np.isnan(record.loss) and not seen.past.has_loss)):
            found.insert(0, f"the loss ({record.loss})")
        if not found:
            return None
        return Finding(layers, count, f"not finite: {', '.join(found)}")


@rule
class LossAvalanche(Rule):
    """The loss is many times what it was, and more than at the start."""

    name, default, unit = "loss_avalanche", 10.0, "loss / running median"
    source = f"{_SEEDS}; the figure is gradkern's"
    indicates = "EXPLODING"
    severity = "error"
    _LEAST = 5

    def observe(self, seen: Observation) -> Finding | None:
        losses = seen.past.losses
        now = seen.record.loss
        before = losses[:-1][np.isfinite(losses[:-1])]
        if len(before) < self._LEAST or not np.isfinite(now):
            return None
        median = float(np.median(before))
        if not (median > 0 and now > self.threshold * median and now > seen.past.first_loss):
            return None
        return Finding(
            (), now / median, f"the loss is {now:.3g}, {now / median:.0f} times its running median"
        )


@rule
class LossStall(Rule):
    """The loss does not become better."""

    name, default, unit = "loss_stall", 0.01, "improvement in 200 steps"
    source = "gradkern"
    indicates = "NOT LEARNING"

    def observe(self, seen: Observation) -> Finding | None:
        improvement = seen.past.improvement
        if seen.past.converged or not improvement < self.threshold:
            return None
        direction = "better" if improvement >= 0 else "worse"
        return Finding(
            (),
            improvement,
            f"the loss is {abs(improvement):.1%} {direction} than 200 steps ago",
            # Having learnt, a network may rest.
            "note" if seen.past.learnt else "warning",
        )
