"""Applies the rules to each step, and raises an alert for what persists."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from gradkern.monitor.alerts import SEVERITIES, Alert, Severity
from gradkern.monitor.network import Network
from gradkern.monitor.past import Past
from gradkern.monitor.record import StepRecord
from gradkern.monitor.rules import Finding, Observation, Rule

_KEPT_ALERTS = 1000
# What comes and goes is reported again after that many quiet steps.
_QUIET = 100


class _Episode:
    """How long a rule has held, and at which severity it has been reported."""

    def __init__(self) -> None:
        self.steps = 0
        self.quiet = 0
        self.reported = -1


class Judge:
    """Applies rules to records, in order.

    An alert is raised once when a rule has held for ``persistence`` records in a row, again when it
    gets more severe, and anew after the rule has been quiet for a hundred.

    Args:
        rules: to apply.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = list(rules)
        self.past = Past()
        self.alerts: deque[Alert] = deque(maxlen=_KEPT_ALERTS)
        self.findings: dict[str, Finding] = {}
        """What holds now, by the rule's name, and has persisted."""
        self._episodes = {rule.name: _Episode() for rule in self.rules}

    @property
    def holding(self) -> dict[str, Severity]:
        """The rules that hold now, and how severe they are."""
        severities = {rule.name: rule.severity for rule in self.rules}
        return {name: f.severity or severities[name] for name, f in self.findings.items()}

    def judge(self, record: StepRecord, network: Network) -> list[Alert]:
        """The alerts that this step raises."""
        self.past.add(record)
        seen = Observation(record, self.past, network)
        raised = []
        for rule in self.rules:
            alert = self._apply(rule, seen)
            if alert is not None:
                self.alerts.append(alert)
                raised.append(alert)
        return raised

    def _apply(self, rule: Rule, seen: Observation) -> Alert | None:
        episode = self._episodes[rule.name]
        finding = rule.observe(seen)
        if finding is None:
            episode.steps = 0
            episode.quiet += 1
            if episode.quiet == rule.persistence:
                self.findings.pop(rule.name, None)
            if episode.quiet >= max(rule.persistence, _QUIET):
                episode.reported = -1
            return None
        episode.steps += 1
        episode.quiet = 0
        if episode.steps < rule.persistence:
            return None
        self.findings[rule.name] = finding
        severity = finding.severity or rule.severity
        rank = SEVERITIES.index(severity)
        if rank <= episode.reported:
            return None
        episode.reported = rank
        return Alert(
            severity,
            rule.name,
            finding.layers,
            finding.message,
            seen.record.step,
            finding.value,
            rule.threshold,
            rule.unit,
        )

    def state_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "past": self.past.state_dict(),
            "alerts": [alert.to_dict() for alert in self.alerts],
            "episodes": {name: dict(vars(e)) for name, e in self._episodes.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there; rules that were not there before begin anew."""
        self.past.load_state_dict(state["past"])
        self.alerts.clear()
        for alert in state["alerts"]:
            self.alerts.append(Alert(**{**alert, "layers": tuple(alert["layers"])}))
        for name, values in state["episodes"].items():
            if name in self._episodes:
                vars(self._episodes[name]).update(values)
