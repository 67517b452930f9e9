"""A run as a table in the terminal: wins and losses alike."""

from __future__ import annotations

import itertools
import statistics

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.measurement import Measurement, Run

COLOURS = {"met": "green", "missed": "red", "not judged": "dim", None: "dim"}


def duration(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def speedup(measurement: Measurement) -> Text:
    ratio = measurement.times.speedup()
    text = f"{ratio.median:.3g}x [{ratio.lower:.3g}, {ratio.upper:.3g}]"
    bar = measurement.row.bar
    expected = bar is not None and bar.quantity == "time"
    return Text(text, style="red" if ratio.median < 1 and not expected else "")


def verdict(measurement: Measurement) -> Text:
    if measurement.row.bar is None:
        return Text("")
    text = f"{measurement.verdict}"
    value = measurement.judged_value
    if value is not None and measurement.row.bar.quantity == "time":
        text += f" ({value:.3g}x)"
    return Text(text, style=COLOURS[measurement.verdict])


def headline(run: Run) -> Text:
    """Machine, versions and bandwidth, in two lines."""
    facts = run.machine
    lines = [
        f"{facts['cpu']}, {facts['cores']} cores; {facts['threads']} threads; gradkern "
        f"{facts['gradkern']} ({facts['cpu_isa']}), torch {facts['torch']} "
        f"({facts['native_cpu_isa']})" + (f"; {facts['gpu']}" if facts["gpu"] else "")
    ]
    lines += [
        f"{meter.device.type} bandwidth in this run: read {meter.read / 1e9:.3g} GB/s, "
        f"copy {meter.copy / 1e9:.3g} GB/s"
        for meter in run.bandwidths
    ]
    return Text("\n".join(lines))


def table(run: Run) -> Table:
    """One line for each row, under a heading for each workload."""
    result = Table(box=None, header_style="bold", pad_edge=False)
    result.add_column("operation", no_wrap=True)
    result.add_column("against", no_wrap=True)
    for name in ("ours", "theirs", "times as fast [quartiles]", "GB/s", "of bandwidth"):
        result.add_column(name, justify="right", no_wrap=True)
    result.add_column("bar", no_wrap=True)
    result.add_column("verdict", no_wrap=True)
    for workload, group in itertools.groupby(run.measurements, key=lambda m: m.row.workload):
        dtype = str(workload.dtype).removeprefix("torch.")
        heading = f"{workload.name}, {dtype}, {workload.device.type}"
        # As a title between sections: a cell would stretch the first column.
        result.add_section()
        result.add_row(Text(heading, style="bold cyan"))
        for measurement in group:
            share = measurement.bandwidth_share
            result.add_row(
                measurement.row.operation,
                measurement.row.against,
                duration(measurement.ours.median),
                duration(measurement.theirs.median),
                speedup(measurement),
                f"{measurement.bytes_per_second / 1e9:.3g}",
                "in cache" if share is None else f"{share:.0%}",
                str(measurement.row.bar or ""),
                verdict(measurement),
            )
    return result


def geometric_means(run: Run) -> list[str]:
    """A line for each direction of the activations: the geometric mean of all against native."""
    lines = []
    for direction in ("forward", "backward"):
        speedups = [
            m.times.speedup().median
            for m in run.measurements
            if m.row.operation.endswith(direction) and m.row.against == "native"
        ]
        if speedups:
            mean = statistics.geometric_mean(speedups)
            lines.append(
                f"Activations {direction}: {mean:.2f}x native, geometric mean of {len(speedups)}."
            )
    return lines


def summary(run: Run) -> Text:
    """How many bars were met, and which were not."""
    judged, missed = run.judged, run.missed
    slower = [m for m in run.measurements if m.times.speedup().median < 1]
    if run.judge:
        lines = [f"{len(judged) - len(missed)} of {len(judged)} bars met."]
    else:
        lines = ["Quick run on tiny stand-ins: the bars are not judged."]
    for m in itertools.chain.from_iterable(missed):
        assert m.row.bar is not None
        assert m.judged_value is not None
        in_seconds = m.row.bar.quantity == "seconds"
        value = duration(m.judged_value) if in_seconds else f"{m.judged_value:.3g}"
        lines.append(f"missed: {m.row.title}: {value}, bar {m.row.bar}")
    lines.append(f"Slower than what it is compared with: {len(slower)} of {len(run.measurements)}.")
    lines.extend(geometric_means(run))
    return Text("\n".join(lines), style="red" if missed else "")


def report(run: Run) -> RenderableType:
    """Everything for the terminal."""
    return Group(headline(run), Text(), table(run), Text(), summary(run))
