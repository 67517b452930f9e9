"""A section of the demo: what to train, and what to say about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gradkern.demo.training import Run, Workload


@dataclass(frozen=True)
class Section:
    """One lesson: a few networks, shown in one plot, and the verdict on them."""

    title: str
    subtitle: str
    lesson: str
    """What to look out for, in a sentence or two, before the training starts."""
    unit: str
    """What the depth counts: a layer, a row read, a time step."""
    workloads: tuple[Workload, ...]
    verdict: Callable[[Sequence[Run]], str]
    """The conclusion in plain words; takes one run per workload, in their order."""


@dataclass(frozen=True)
class Result:
    """A section whose networks have been trained."""

    section: Section
    runs: tuple[Run, ...]

    @property
    def verdict(self) -> str:
        return self.section.verdict(self.runs)
