"""Alerts, and what is done with one as it is raised."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

Severity = Literal["note", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("note", "warning", "error")
_LEVELS = {"note": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

logger = logging.getLogger("gradkern.monitor")


@dataclass(frozen=True)
class Alert:
    """A rule that has held for long enough.

    Attributes:
        severity: ``"note"``, ``"warning"`` or ``"error"``.
        rule: the rule's name.
        layers: of the layers (parameters, modules) that it holds for, from the input to the loss.
        message: a sentence with the figures.
        step: at which it was raised, counted from 1.
        value: what was compared, and `threshold` with what, in `unit`.

    Example:
        >>> from gradkern.monitor import Alert
        >>> print(Alert("error", "non_finite", ("out.weight",), "3 gradients are NaN", 7))
        step 7: error: non_finite: 3 gradients are NaN (out.weight)
    """

    severity: Severity
    rule: str
    layers: tuple[str, ...]
    message: str
    step: int
    value: float = float("nan")
    threshold: float = float("nan")
    unit: str = ""

    def __str__(self) -> str:
        where = f" ({shortened(self.layers)})" if self.layers else ""
        return f"step {self.step}: {self.severity}: {self.rule}: {self.message}{where}"

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)


class TrainingError(RuntimeError):
    """Raised by a monitor with ``on_alert="raise"`` for an alert of severity "error".

    Attributes:
        alert: the alert.
    """

    def __init__(self, alert: Alert) -> None:
        super().__init__(str(alert))
        self.alert = alert


AlertHandler: TypeAlias = Callable[[Alert], object]
OnAlert: TypeAlias = Literal["log", "raise"] | AlertHandler | None


def handler_of(on_alert: OnAlert) -> AlertHandler:
    """The function that an ``on_alert`` argument stands for."""
    if on_alert is None:
        return lambda alert: None
    if on_alert == "log":
        return _log
    if on_alert == "raise":
        return _raise
    if callable(on_alert):
        return on_alert
    raise TypeError(
        f"on_alert is {on_alert!r}; it must be 'log', 'raise', None, or a callable that takes an "
        "Alert"
    )


def _log(alert: Alert) -> None:
    logger.log(_LEVELS[alert.severity], "%s", alert)


def _raise(alert: Alert) -> None:
    if alert.severity == "error":
        raise TrainingError(alert)
    _log(alert)


def shortened(layers: tuple[str, ...], shown: int = 3) -> str:
    """Layers in a few words: ``first - last`` where there are many."""
    if len(layers) <= shown:
        return ", ".join(layers)
    return f"{layers[0]} - {layers[-1]}, {len(layers)} in all"
