"""What a rule is, and the one registry of all rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from gradkern.monitor.alerts import Severity
from gradkern.monitor.depth_profile import DepthProfile, gradient_profile
from gradkern.monitor.network import Network
from gradkern.monitor.past import Past
from gradkern.monitor.record import StepRecord


@dataclass(frozen=True)
class Observation:
    """What a rule looks at: the step, the steps before it, and what the model is made of."""

    record: StepRecord
    past: Past
    network: Network

    @cached_property
    def gradient_profile(self) -> DepthProfile:
        """The norms of the weights' gradients, from the input to the loss."""
        return gradient_profile(self.record, self.network)


@dataclass(frozen=True)
class Finding:
    """What a rule has found in one step.

    Attributes:
        layers: for which it holds, from the input to the loss.
        value: what was compared with the threshold.
        message: a sentence with the figures.
        severity: in place of the rule's own.
    """

    layers: tuple[str, ...]
    value: float
    message: str
    severity: Severity | None = None


class Rule(ABC):
    """Judges every step by one criterion. Register a subclass with :func:`gradkern.rule`.

    Class attributes:
        name: how alerts call it, and the key that switches it.
        default: the threshold, in ``unit``.
        unit: of the threshold and of a finding's value.
        source: who says so.
        persistence: for how many judged steps in a row it must hold before it alerts.
        severity: of its alerts, unless a finding has its own.
        indicates: the verdict that it is evidence for; empty for none.

    Args:
        threshold, persistence: in place of the class's.
    """

    name: ClassVar[str]
    default: ClassVar[float]
    unit: ClassVar[str]
    source: ClassVar[str]
    persistence: int = 1
    severity: ClassVar[Severity] = "warning"
    indicates: ClassVar[str] = ""

    def __init__(self, threshold: float | None = None, persistence: int | None = None) -> None:
        self.threshold = self.default if threshold is None else float(threshold)
        if persistence is not None:
            self.persistence = persistence

    @abstractmethod
    def observe(self, seen: Observation) -> Finding | None:
        """What holds in this step; None if nothing does."""


_R = TypeVar("_R", bound=type[Rule])
RULES: dict[str, type[Rule]] = {}


def rule(cls: _R) -> _R:
    """Adds a subclass of :class:`gradkern.monitor.Rule` to the rules of new monitors.

    Raises:
        TypeError: it is no such class, or lacks a class attribute.
        ValueError: another rule has its name.

    Example:
        >>> from gradkern.monitor import RULES, Finding, Observation, Rule
        >>> @gradkern.rule
        ... class LossAboveTen(Rule):
        ...     name, default, unit, source = "loss_above_ten", 10.0, "loss", "this example"
        ...     def observe(self, seen: Observation) -> Finding | None:
        ...         loss = seen.record.loss
        ...         return Finding((), loss, f"loss {loss:g}") if loss > self.threshold else None
        >>> del RULES["loss_above_ten"]
    """
    if not (isinstance(cls, type) and issubclass(cls, Rule)):
        raise TypeError(f"rule got {cls!r}; it must be a subclass of gradkern.monitor.Rule")
    for attribute in ("name", "default", "unit", "source"):
        if not hasattr(cls, attribute):
            raise TypeError(f"{cls.__name__} has no {attribute}; a rule must have one")
    if RULES.get(cls.name, cls).__qualname__ != cls.__qualname__:
        raise ValueError(f"{cls.__name__} is named {cls.name!r}, as {RULES[cls.name].__name__} is")
    RULES[cls.name] = cls
    return cls


def build_rules(switches: Mapping[str, Any] | None = None) -> list[Rule]:
    """One object of each rule.

    Args:
        switches: by a rule's name: False leaves it out, a number is its threshold, a mapping has
            ``threshold`` and ``persistence``.

    Raises:
        ValueError: there is no rule of that name.
    """
    switches = switches or {}
    unknown = sorted(set(switches) - set(RULES))
    if unknown:
        raise ValueError(f"rules has {unknown}; the names must be among {sorted(RULES)}")
    built = []
    for name, cls in RULES.items():
        switch = switches.get(name, True)
        if switch is False:
            continue
        if switch is True:
            built.append(cls())
        elif isinstance(switch, Mapping):
            built.append(cls(**switch))
        else:
            built.append(cls(threshold=float(switch)))
    return built
