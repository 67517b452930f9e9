"""Paired, interleaved timing: both sides in one process, taking turns, compared pair by pair.

A shared machine's speed drifts by tens of percent within seconds (other tenants, frequency). Two
calls that run back to back meet the same conditions, so the ratio is taken within each pair and
only then summarised; ratios of two separate medians would keep the drift.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy
import torch


class Clock(Protocol):
    """Something that times one call, in seconds."""

    def __call__(self, call: Callable[[], Any]) -> float: ...


def cpu_clock(call: Callable[[], Any]) -> float:
    """Wall time of one call on the host."""
    start = time.perf_counter()
    # The name keeps the result alive: freeing it is not part of the call.
    result = call()
    seconds = time.perf_counter() - start
    del result
    return seconds


def cuda_clock(call: Callable[[], Any]) -> float:
    """Time between two CUDA events around one call on the current stream."""
    event: Callable[..., Any] = torch.cuda.Event
    start, stop = event(enable_timing=True), event(enable_timing=True)
    start.record()
    result = call()
    stop.record()
    stop.synchronize()
    del result
    return float(start.elapsed_time(stop)) / 1e3


@dataclass(frozen=True)
class Budget:
    """How long a row may take: at least `min_pairs`, then until `seconds` or `max_pairs`."""

    seconds: float = 3.0
    min_pairs: int = 5
    max_pairs: int = 500
    warm_up_seconds: float = 0.2


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        lower, median, upper = numpy.percentile(values, [25, 50, 75])
        return cls(float(median), float(lower), float(upper))


@dataclass(frozen=True)
class PairedTimes:
    """Seconds of both sides; index i of both lists is one pair."""

    ours: list[float]
    theirs: list[float]

    def speedup(self) -> Spread:
        """Their time over ours, pair by pair."""
        return Spread.of(
            [theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True)]
        )

    def time_ratio(self) -> Spread:
        """Our time over theirs, pair by pair."""
        return Spread.of(
            [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]
        )


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Collects once, then keeps Python's collector from running inside the block."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def time_pairs(
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    clock: Clock,
    budget: Budget,
    reset: Callable[[], None] | None = None,
    pairs_per_reset: int = 1,
) -> PairedTimes:
    """Times `ours` and `theirs` in turns.

    Args:
        ours: one side.
        theirs: the other side.
        clock: times one call.
        budget: when to stop.
        reset: run, untimed, before the first pair and after every `pairs_per_reset` pairs.
        pairs_per_reset: pairs between two resets.

    Returns:
        The seconds of every pair. The side that goes first alternates, since what the first call
        leaves in the caches favours the second.
    """
    times = PairedTimes([], [])

    def run_pair(index: int) -> float:
        if reset is not None and index % pairs_per_reset == 0:
            reset()
        if index % 2 == 0:
            pair = clock(ours), clock(theirs)
        else:
            pair = (clock(theirs), clock(ours))[::-1]
        times.ours.append(pair[0])
        times.theirs.append(pair[1])
        return sum(pair)

    with without_garbage_collection():
        spent, index = 0.0, 0
        while index == 0 or (spent < budget.warm_up_seconds and index < budget.max_pairs):
            spent += run_pair(index)
            index += 1
        times.ours.clear()
        times.theirs.clear()

        spent, index = 0.0, 0
        while index < budget.min_pairs or (spent < budget.seconds and index < budget.max_pairs):
            spent += run_pair(index)
            index += 1
    return times
