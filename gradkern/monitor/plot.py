"""The five plots of a report, drawn by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gradkern.monitor.plot_data import (
    TARGET_UPDATE,
    bars,
    depth_lines,
    heat_map,
    recent_range,
    totals,
    update_lines,
)

if TYPE_CHECKING:
    from gradkern.monitor.report import Report

# Colours that colour-blind readers can tell apart (Okabe and Ito 2008).
_BLUE, _RED, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#8c8c8c"
_MANY = 30


def draw(report: Report) -> Figure:
    """All five, below the verdict."""
    figure = Figure(figsize=(15, 9.5), layout="constrained")
    figure.suptitle(report.headline, fontsize=13, fontweight="bold", wrap=True)
    axes = figure.subplots(2, 3)
    _depth(axes[0, 0], report)
    _heat(figure, axes[0, 1], report)
    _updates(axes[0, 2], report)
    _norms(axes[1, 0], report)
    _loss(axes[1, 1], report)
    _bars(axes[1, 2], report)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a figure without a window system."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=130)


def _depth(axes: Axes, report: Report) -> None:
    colours = (_GREY, _BLUE)
    for (label, values), colour in zip(depth_lines(report.history), colours, strict=False):
        axes.plot(range(1, len(values) + 1), values, "o-", ms=4, color=colour, label=label)
    axes.set(title="gradient norm against depth", xlabel="layer", ylabel="log10 of the norm")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.lines:
        axes.legend()


def _heat(figure: Figure, axes: Axes, report: Report) -> None:
    steps, _, values = heat_map(report.history)
    axes.set(title="log10 gradient norm, layer by step", xlabel="step", ylabel="layer")
    if not values.size:
        return
    low, high = recent_range(values)
    extent = (steps[0] - 0.5, steps[-1] + 0.5, values.shape[0] + 0.5, 0.5)
    image = axes.imshow(
        values, aspect="auto", extent=extent, vmin=low, vmax=high, interpolation="nearest"
    )
    figure.colorbar(image, ax=axes)


def _updates(axes: Axes, report: Report) -> None:
    steps, names, values = update_lines(report.history)
    for name, line in zip(names, values, strict=True):
        axes.plot(steps, line, lw=1, label=name)
    axes.axhline(TARGET_UPDATE, color="black", ls="--", lw=1)
    if values.size:
        axes.set_ylim(*recent_range(values, pad=0.5, including=TARGET_UPDATE))
    axes.set(title="log10 update / weight (target -3)", xlabel="step")


def _norms(axes: Axes, report: Report) -> None:
    steps, _, before, after = totals(report.history)
    axes.semilogy(steps, before, color=_RED, lw=1, label="before clipping")
    axes.semilogy(steps, after, color=_BLUE, lw=1, label="after clipping")
    axes.set(title="total gradient norm", xlabel="step")
    axes.legend()


def _loss(axes: Axes, report: Report) -> None:
    steps, losses, _, _ = totals(report.history)
    axes.plot(steps, losses, color=_GREEN, lw=1)
    for alert in report.history.alerts:
        if alert["severity"] == "error" or alert["rule"] == "spike":
            axes.axvline(alert["step"], color=_RED, lw=0.8, alpha=0.5)
    if np.isfinite(losses).any():
        axes.set_ylim(*recent_range(losses, pad=0.05))
    axes.set(title="loss; errors and spikes in red", xlabel="step")


def _bars(axes: Axes, report: Report) -> None:
    names, saturated, dead = bars(report.history)
    places = np.arange(len(names))
    axes.barh(places - 0.2, saturated, 0.4, color=_BLUE, label="saturated outputs")
    axes.barh(places + 0.2, dead, 0.4, color=_RED, label="dead units")
    axes.set(title="saturation and death", xlim=(0, 1), xlabel="share")
    if len(names) <= _MANY:
        axes.set_yticks(places, names, fontsize=7)
    axes.invert_yaxis()
    axes.legend(loc="lower right")
