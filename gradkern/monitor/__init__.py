"""The monitor: what gradients, parameters, updates and outputs do, and what to do about it.

:class:`Monitor` is what a training loop talks to. It is made of meters (``gradients``, ``updates``,
``activations``, ``recurrence``), whose numbers travel by ``host_copy`` and arrive as a
:class:`StepRecord`; of ``rules``, which the ``judge`` applies to each record.
"""

from gradkern.monitor.alerts import Alert, TrainingError
from gradkern.monitor.monitor import Monitor
from gradkern.monitor.record import ActivationTable, StatTable, StepRecord
from gradkern.monitor.report import Report
from gradkern.monitor.rules import RULES, Finding, Observation, Rule, rule
from gradkern.monitor.self_measuring import MeasuresOutput, OutputStatistics
from gradkern.monitor.verdict import Verdict

__all__ = [
    "RULES",
    "ActivationTable",
    "Alert",
    "Finding",
    "MeasuresOutput",
    "Monitor",
    "Observation",
    "OutputStatistics",
    "Report",
    "Rule",
    "StatTable",
    "StepRecord",
    "TrainingError",
    "Verdict",
    "rule",
]
