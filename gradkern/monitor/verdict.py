"""The verdict: one word for what is wrong, where, why, and what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gradkern.monitor.alerts import SEVERITIES, Alert, Severity, shortened
from gradkern.monitor.causes import Case, Cause, find_cause
from gradkern.monitor.depth_profile import gradient_profile
from gradkern.monitor.remedies import Remedy, ranked

HEALTHY = "HEALTHY"
# A warning is over when it has not come again for as long, and the loss has halved since the start.
_RECENT_STEPS = 200
# What is only a symptom, if anything else was noticed.
_SYMPTOMS = ("NON-FINITE", "NOT LEARNING")
# Where two come at the same step with the same severity.
_ORDER = (
    "TINY BATCH",
    "EXPLODING",
    "DEAD UNITS",
    "VANISHING",
    "COLLAPSING",
    "SATURATED",
    "NON-FINITE",
    "NOT LEARNING",
)
_SHOWN_REMEDIES = 2
_SHOWN_SLOPE = 0.03


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a training, if anything.

    Attributes:
        kind: ``"HEALTHY"``, ``"VANISHING"``, ``"EXPLODING"``, ``"DEAD UNITS"``, ``"SATURATED"``,
            ``"TINY BATCH"``, ``"COLLAPSING"``, ``"NON-FINITE"``, ``"NOT LEARNING"``, or what rules
            of your own indicate.
        severity: of its gravest alert; ``"note"`` for a healthy training.
        step: until which it was judged; `since`: that of its first alert.
        layers: concerned, from the input to the loss.
        slope: in decades per layer on the way back (per time step where the cause is recurrence);
            NaN where there is none.
        cause: and what speaks for it.
        evidence: messages of its alerts, the gravest first.
        remedies: the best first.
        also: the other things that were found.
    """

    kind: str
    severity: Severity
    step: int
    since: int
    layers: tuple[str, ...]
    slope: float
    cause: Cause
    evidence: tuple[str, ...]
    remedies: tuple[Remedy, ...]
    also: tuple[str, ...]

    @property
    def headline(self) -> str:
        """The verdict in a line, as ``VANISHING 0 - 26: norm falls 0.83 decades per layer; ...``"""
        if self.kind == HEALTHY:
            return f"{HEALTHY}: nothing is wrong after {self.step} steps"
        where = f" {shortened(self.layers)}" if self.layers else ""
        parts = []
        if abs(self.slope) >= _SHOWN_SLOPE:
            unit = "time step" if self.cause.name == "recurrence" else "layer"
            verb = "falls" if self.slope < 0 else "grows"
            parts.append(f"norm {verb} {abs(self.slope):.2f} decades per {unit}")
        elif self.evidence:
            parts.append(self.evidence[0])
        if self.cause.name != "unknown":
            parts.append(f"cause: {self.cause.name}")
        if self.remedies:
            names = [remedy.name for remedy in self.remedies[:_SHOWN_REMEDIES]]
            parts.append(f"try {', or '.join(names)}")
        return f"{self.kind}{where}: {'; '.join(parts)}"

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        data = asdict(self)
        for remedy in data["remedies"]:
            remedy.pop("fits")
            remedy.pop("helps")
        return data | {"headline": self.headline}


def judge_training(alerts: Sequence[Alert], indicates: dict[str, str], case: Case) -> Verdict:
    """The verdict on a training.

    Args:
        alerts: all that were raised.
        indicates: for each rule's name the kind of verdict that it is evidence for, or "".
        case: the model and its training.

    Returns:
        Of the kinds that the gravest alerts indicate, the one that was noticed first; but where an
        earlier one has the same cause, that one (a learning rate that makes updates explode kills
        units later).
    """
    step = case.record.step
    by_kind = _kinds(alerts, indicates, case)
    if not by_kind:
        return Verdict(
            HEALTHY, "note", step, step, (), math.nan, Cause("unknown", ""), (), (), _others(alerts)
        )
    since = {kind: min(alert.step for alert in found) for kind, found in by_kind.items()}
    severities = {k: max(map(_rank, found)) for k, found in by_kind.items()}

    def urgency(kind: str) -> tuple[int, int, int]:
        place = _ORDER.index(kind) if kind in _ORDER else len(_ORDER)
        return -severities[kind], since[kind], place

    kind = min(by_kind, key=urgency)
    cause = find_cause(kind, case)
    for earlier in sorted(by_kind, key=since.__getitem__):
        if since[earlier] < since[kind] and cause.name == find_cause(earlier, case).name:
            severities[earlier] = max(severities[earlier], severities[kind])
            kind = earlier
            break
    found = sorted(by_kind[kind], key=lambda alert: (-_rank(alert), alert.step))
    layers = next((alert.layers for alert in found if alert.layers), ())
    slope = math.nan
    if cause.name == "recurrence":
        slope = case.slope_through_time
    elif kind in ("VANISHING", "EXPLODING") and cause.name != "learning rate":
        slope = gradient_profile(case.record, case.network).decades_per_layer
    wrong_way = (kind == "VANISHING" and slope > 0) or (kind == "EXPLODING" and slope < 0)
    evidence = tuple(dict.fromkeys(alert.message for alert in found))
    return Verdict(
        kind=kind,
        severity=SEVERITIES[severities[kind]],
        step=step,
        since=since[kind],
        layers=layers,
        slope=math.nan if wrong_way else slope,
        cause=cause,
        evidence=evidence,
        remedies=ranked(kind, cause.name, case.is_recurrent),
        also=_others([a for a in alerts if indicates.get(a.rule) != kind]),
    )


def _rank(alert: Alert) -> int:
    return SEVERITIES.index(alert.severity)


def _kinds(
    alerts: Sequence[Alert], indicates: dict[str, str], case: Case
) -> dict[str, list[Alert]]:
    """The alerts that still count, by the verdict that they are evidence for."""
    oldest = case.record.step - _RECENT_STEPS
    by_kind: dict[str, list[Alert]] = {}
    for alert in alerts:
        kind = indicates.get(alert.rule, "")
        now = case.holding.get(alert.rule)
        over = now == "note" or (now is None and case.past.learnt and alert.step <= oldest)
        if kind and (alert.severity == "error" or (alert.severity == "warning" and not over)):
            by_kind.setdefault(kind, []).append(alert)
    for symptom in _SYMPTOMS:
        if len(by_kind) > 1:
            by_kind.pop(symptom, None)
    return by_kind


def _others(alerts: Sequence[Alert]) -> tuple[str, ...]:
    """One line for each rule, its first alert's."""
    first: dict[str, Alert] = {}
    for alert in alerts:
        first.setdefault(alert.rule, alert)
    return tuple(str(alert) for alert in first.values())
