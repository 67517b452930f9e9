"""The training loop, and what it writes down."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn
from torch.nn import functional

import gradkern
from gradkern.demo.digits import Digits
from gradkern.demo.networks import LayeredNetwork
from gradkern.demo.profile import Measured, Profile, measure, saturation
from gradkern.monitor import Report

BATCH = 64


@dataclass(frozen=True)
class Workload:
    """A network and how to train it."""

    name: str
    recipe: str
    """The training in a line, for the reader."""
    network: Callable[[], LayeredNetwork]
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    epochs: int
    quick_epochs: int
    max_norm: float | None = None
    """The total gradient norm to clip to; None: no clipping."""

    def steps(self, digits: Digits, quick: bool) -> int:
        return (self.quick_epochs if quick else self.epochs) * digits.batches_per_epoch(BATCH)


@dataclass(frozen=True)
class Run:
    """A training that has happened."""

    workload: Workload
    first: Profile
    """At the first step."""
    now: Profile
    """At the last step whose gradients were finite."""
    now_step: int
    """Which step that was, counted from 1."""
    losses: tuple[float, ...]
    norms_before: tuple[float, ...]
    """The total gradient norm of each step, before clipping."""
    norms_after: tuple[float, ...]
    """The same after clipping (where nothing clips, the same numbers)."""
    accuracy: float
    """On the test set, at the end."""
    saturated: float
    """The share of units that hardly passed a gradient on at the first step; NaN: not measured."""
    report: Report
    """What the monitor found."""

    @property
    def verdict(self) -> str:
        """The monitor's, in one or two words."""
        return str(self.report.verdict["verdict"])

    @property
    def diverged(self) -> bool:
        return not math.isfinite(self.norms_before[-1])

    @property
    def final_loss(self) -> float:
        """The mean over the last 20 batches, or the value that ended a diverging run."""
        last = self.losses[-20:]
        return self.losses[-1] if self.diverged else sum(last) / len(last)

    @property
    def largest_norm(self) -> float:
        """The largest finite total norm before clipping."""
        return max(filter(math.isfinite, self.norms_before), default=math.nan)


def train(
    workload: Workload, digits: Digits, *, seed: int, quick: bool, on_step: Callable[[], object]
) -> Run:
    """Trains until the last epoch, or until a gradient is no longer finite.

    Seeds torch's global generator: the caller keeps its state if that matters.
    """
    torch.manual_seed(seed)
    network = workload.network()
    optimizer = workload.optimizer(network.parameters())
    order = torch.Generator().manual_seed(seed)
    epochs = workload.quick_epochs if quick else workload.epochs
    losses: list[float] = []
    norms: list[tuple[float, float]] = []
    saturated = saturation(network, digits.train_images[:BATCH])
    measured: list[Measured] = []  # at the first step, and at the last two
    batches = chain.from_iterable(digits.batches(BATCH, order) for _ in range(epochs))
    with gradkern.Monitor(network, optimizer, on_alert=None) as monitor:
        for images, labels in batches:
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.item())
            measured = [*measured[:1], *measured[1:][-1:], measure(network)]
            norms.append(_clip(network, monitor, workload.max_norm))
            # Also with a gradient that isn't finite, as in a training loop that doesn't look.
            optimizer.step()
            monitor.step(loss)
            on_step()
            if not math.isfinite(norms[-1][0]):
                break
    first, *last = (of.profile() for of in measured)
    now, now_step = first, 1
    for step, profile in enumerate(last, len(losses) - len(last) + 1):
        if profile.finite:
            now, now_step = profile, step
    return Run(
        workload=workload,
        first=first,
        now=now,
        now_step=now_step,
        losses=tuple(losses),
        norms_before=tuple(before for before, _ in norms),
        norms_after=tuple(after for _, after in norms),
        accuracy=_accuracy(network, digits),
        saturated=saturated,
        report=_named(monitor.report(), workload.name),
    )


def _named(report: Report, name: str) -> Report:
    report.title = name
    return report


def _clip(
    network: LayeredNetwork, monitor: gradkern.Monitor, max_norm: float | None
) -> tuple[float, float]:
    """Clips where there is a limit; returns the total norm before and after."""
    before = monitor.clip_grad_norm_(math.inf if max_norm is None else max_norm).item()
    if max_norm is None:
        return before, before
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return before, gradkern.get_total_norm(gradients).item()


def _accuracy(network: LayeredNetwork, digits: Digits) -> float:
    network.eval()
    with torch.no_grad():
        hits = network(digits.test_images).argmax(1) == digits.test_labels
    return float(hits.double().mean())
