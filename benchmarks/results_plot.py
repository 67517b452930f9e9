"""A run as a picture: how many times as fast every row is, with quartiles and bars."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from benchmarks.measurement import Measurement, Run

COLOURS = {"met": "#2e7d32", "missed": "#c62828", "not judged": "#78909c", None: "#78909c"}


def bar_as_speedup(measurement: Measurement) -> float | None:
    """Where the row's bar lies on the axis of speedups, if it can."""
    bar = measurement.row.bar
    if bar is None or bar.quantity == "share":
        return None
    if bar.quantity == "seconds":
        return measurement.theirs.median / bar.limit
    return bar.limit if bar.quantity == "speedup" else 1 / bar.limit


def draw(run: Run, path: Path) -> None:
    """Writes the picture to `path`; its suffix chooses the format."""
    measurements = run.measurements
    figure = Figure(figsize=(11, 1.8 + 0.26 * len(measurements)), layout="constrained")
    axes = figure.subplots()
    for height, measurement in enumerate(measurements):
        ratio = measurement.times.speedup()
        axes.barh(
            height,
            ratio.median - 1,
            left=1,
            color=COLOURS[measurement.verdict],
            xerr=[[ratio.median - ratio.lower], [ratio.upper - ratio.median]],
            error_kw={"elinewidth": 1, "capsize": 2},
        )
        limit = bar_as_speedup(measurement)
        if limit is not None:
            axes.plot([limit, limit], [height - 0.45, height + 0.45], color="black", linewidth=2)
    axes.set_xscale("log")
    lowest, highest = axes.get_xlim()
    few_percent = highest < 2 * lowest  # apart, as when a training is watched
    axes.xaxis.set_major_locator(MaxNLocator(8) if few_percent else LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(measurements)), [m.row.title for m in measurements], fontsize=7)
    axes.set_ylim(len(measurements) - 0.4, -0.6)
    axes.grid(axis="x", which="both", alpha=0.25)
    axes.set_xlabel(
        "times as fast (median of pairs, whiskers: quartiles; thick black line: bar; "
        "green: met, red: missed)"
    )
    facts = run.machine
    # Over the figure: long titles of rows leave the axes too little room.
    figure.suptitle(
        f"gradkern {facts['gradkern']} ({facts['cpu_isa']}) against torch {facts['torch']}, "
        f"{facts['cpu']}, {facts['threads']} threads{'' if run.judge else ', tiny stand-ins'}",
        fontsize=10,
    )
    figure.savefig(path, dpi=120)
