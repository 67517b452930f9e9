"""A section of the demo: a sick network, and the same one with each of the remedies."""

from __future__ import annotations

from dataclasses import dataclass

from gradkern.demo.training import Run, Workload


@dataclass(frozen=True)
class Section:
    """One lesson, shown in one plot."""

    title: str
    subtitle: str
    lesson: str
    """What to look out for, in a sentence or two, before the training starts."""
    unit: str
    """What the depth counts: a layer, a row read, a time step."""
    sick: Workload
    remedies: tuple[Workload, ...]
    """Each is the sick one with one thing changed; its name is that of the remedy."""

    @property
    def workloads(self) -> tuple[Workload, ...]:
        return (self.sick, *self.remedies)


@dataclass(frozen=True)
class Result:
    """A section whose networks have been trained."""

    section: Section
    runs: tuple[Run, ...]

    @property
    def sick(self) -> Run:
        return self.runs[0]

    @property
    def remedies(self) -> tuple[Run, ...]:
        return self.runs[1:]
