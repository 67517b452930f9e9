"""The rules: one registry, small classes. Importing this package registers gradkern's own."""

from gradkern.monitor.rules import backward, forward, training, weights
from gradkern.monitor.rules.registry import (
    RULES,
    Finding,
    Observation,
    Rule,
    build_rules,
    rule,
)

__all__ = [
    "RULES",
    "Finding",
    "Observation",
    "Rule",
    "backward",
    "build_rules",
    "forward",
    "rule",
    "training",
    "weights",
]
