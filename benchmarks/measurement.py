"""Runs rows, and judges what was measured against the rows' bars."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from benchmarks import agreement, machine
from benchmarks.bandwidth import BandwidthMeter
from benchmarks.paired_timing import Budget, PairedTimes, Spread, cpu_clock, cuda_clock, time_pairs
from benchmarks.rows import Row, Traffic

Verdict = Literal["met", "missed", "not judged"]


@dataclass(frozen=True)
class Settings:
    """How carefully to measure. `judge` is off where the workloads are not the bars' own."""

    budget: Budget = field(default_factory=Budget)
    bandwidth_bytes: int = 512 << 20
    judge: bool = True


QUICK = Settings(
    Budget(seconds=0.02, min_pairs=3, max_pairs=9, warm_up_seconds=0.0), 4 << 20, False
)


@dataclass(frozen=True)
class Measurement:
    """A row, its times, and the bandwidth of its device in the same run."""

    row: Row[Any]
    times: PairedTimes
    traffic: Traffic
    difference: float
    bandwidth: BandwidthMeter
    judge: bool

    @property
    def ours(self) -> Spread:
        return Spread.of(self.times.ours)

    @property
    def theirs(self) -> Spread:
        return Spread.of(self.times.theirs)

    @property
    def bytes_per_second(self) -> float:
        return self.traffic.total / self.ours.median

    @property
    def bandwidth_share(self) -> float | None:
        """Time that the traffic takes at the measured bandwidth over our time.

        None where the tensors fit into twice the largest cache: they are not read from memory.
        """
        workload = self.row.workload
        if workload.elements * workload.dtype.itemsize <= 2 * machine.cache_bytes(workload.device):
            return None
        at_best = self.traffic.seconds_at(self.bandwidth.read, self.bandwidth.copy)
        return at_best / self.ours.median

    @property
    def judged_value(self) -> float | None:
        """The figure that the row's bar is about."""
        if self.row.bar is None:
            return None
        if self.row.bar.quantity == "speedup":
            return self.times.speedup().median
        if self.row.bar.quantity == "time":
            return self.times.time_ratio().median
        if self.row.bar.quantity == "seconds":
            return self.ours.median
        return self.bandwidth_share

    @property
    def verdict(self) -> Verdict | None:
        """None for a row without a bar."""
        if self.row.bar is None:
            return None
        value = self.judged_value
        if not self.judge or value is None:
            return "not judged"
        return "met" if self.row.bar.met_by(value) else "missed"


@dataclass(frozen=True)
class Run:
    """Everything that was measured in one run."""

    machine: dict[str, Any]
    measurements: list[Measurement]
    bandwidths: list[BandwidthMeter]
    judge: bool

    @property
    def judged(self) -> list[list[Measurement]]:
        """Those with a verdict; bars of which one is enough together."""
        groups: dict[Any, list[Measurement]] = {}
        for index, m in enumerate(self.measurements):
            if m.row.bar is not None and m.verdict in ("met", "missed"):
                together = (m.row.workload, m.row.operation)
                groups.setdefault(together if m.row.bar.alternative else index, []).append(m)
        return list(groups.values())

    @property
    def missed(self) -> list[list[Measurement]]:
        """Those of :attr:`judged` of which none is met."""
        return [g for g in self.judged if all(m.verdict == "missed" for m in g)]


def measure(rows: Iterable[Row[Any]], settings: Settings, announce: Callable[[str], None]) -> Run:
    """Measures every row.

    Consecutive rows of one workload share its tensors. Bandwidth is measured before, between and
    after the workloads, with no tensors of theirs alive, and the best round counts for all rows.

    Args:
        rows: what to measure.
        settings: how carefully.
        announce: told the title of each row when its turn comes.

    Returns:
        One measurement for each row, in their order.
    """
    # What was imported so far is not garbage: without this every row's collection, which frees
    # the tensors of the row before, would walk the whole heap of torch (0.3 s).
    gc.freeze()
    meters: dict[torch.device, BandwidthMeter] = {}
    measurements = []
    for workload, group in itertools.groupby(rows, key=lambda row: row.workload):
        clock = cuda_clock if workload.device.type == "cuda" else cpu_clock
        meter = meters.get(workload.device)
        if meter is None:
            meter = BandwidthMeter(workload.device, clock, settings.bandwidth_bytes)
            meters[workload.device] = meter
        announce(f"{workload.device.type} bandwidth")
        meter.measure()
        data = workload.make()
        for row in group:
            announce(row.title)
            sides = row.prepare(data)
            difference = agreement.check(row.title, sides, data, workload.dtype)
            times = time_pairs(
                sides.ours, sides.theirs, clock, settings.budget, sides.reset, sides.pairs_per_reset
            )
            if sides.reset is not None:
                data.restore()
            measurements.append(
                Measurement(row, times, sides.traffic, difference, meter, settings.judge)
            )
            # A row's own tensors (optimizer states, buffers) must not outlive it.
            del sides
        del data
        gc.collect()
    for meter in meters.values():
        meter.measure()
    gc.unfreeze()
    return Run(machine.describe(), measurements, list(meters.values()), settings.judge)
