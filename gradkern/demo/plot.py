"""The demo as a picture: gradient norm against depth per section, total norm and loss per step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from gradkern.demo.digits import CLASSES
from gradkern.demo.section import Result
from gradkern.demo.training import Run

# Colours that colour-blind readers can tell apart (Okabe and Ito 2008; the fourth is Tol's purple);
# marker and line style say it again.
_STYLES = (
    ("#0072B2", "o", "-"),
    ("#009E73", "s", "-"),
    ("#D55E00", "^", "-"),
    ("#AA4499", "D", "--"),
    ("#56B4E9", "v", "-."),
    ("#E69F00", "P", ":"),
    ("#CC79A7", "X", "-"),
    ("#332288", "*", "--"),
    ("#117733", "<", "-."),
    ("#882255", ">", ":"),
    ("#661100", "h", "-"),
    ("#999933", "p", "--"),
)
_GREY = "#595959"
_BAND = "#F0E442"
_LOSS_WINDOW = 22  # steps: an epoch
_PANELS_PER_ROW = 3


@dataclass(frozen=True)
class _Line:
    """A run and the look it keeps in every panel."""

    run: Run
    colour: str
    marker: str
    dashes: str


def save(results: Sequence[Result], output: Path) -> None:
    """Draws the results and writes them to `output`, in the format of its suffix."""
    figure = draw(results)
    FigureCanvasAgg(figure)  # draws into memory: no window system needed
    figure.savefig(output, dpi=140)


def draw(results: Sequence[Result]) -> Figure:
    """A panel per section, three in a row; below them the total norm where something is clipped,
    and the losses of all.
    """
    styles = cycle(_STYLES)
    lines = [[_Line(run, *next(styles)) for run in result.runs] for result in results]
    profile_rows = math.ceil(len(results) / _PANELS_PER_ROW)
    figure = Figure(
        figsize=(14.5, 5.0 * profile_rows + 4.8),
        layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1),
    )
    figure.suptitle(
        "What reaches the layers: gradients of networks trained on handwritten digits",
        fontsize=16,
        fontweight="bold",
    )
    grid = figure.add_gridspec(profile_rows + 1, 6, height_ratios=[1.12] * profile_rows + [1.0])
    shared: Axes | None = None
    for i, (result, group) in enumerate(zip(results, lines, strict=True)):
        row, column = divmod(i, _PANELS_PER_ROW)
        axes = figure.add_subplot(grid[row, 2 * column : 2 * column + 2], sharey=shared)
        shared = shared or axes
        _draw_profiles(axes, result, group)
        axes.tick_params(labelleft=column == 0)
        if column == 0:
            axes.set_ylabel("gradient norm of the layer")
    clipped = [
        line
        for group in lines
        for line in group
        if any(other.run.workload.max_norm is not None for other in group)
    ][:2]  # the sick one, and the first that is clipped
    if clipped:
        _draw_norms(figure.add_subplot(grid[-1, :3]), clipped)
    losses = figure.add_subplot(grid[-1, 3 if clipped else 0 :])
    _draw_losses(losses, [line for group in lines for line in group])
    return figure


def _draw_profiles(axes: Axes, result: Result, group: Sequence[_Line]) -> None:
    """Norm against depth: the sick network's first step, and each run's end."""
    first = group[0].run.first
    axes.semilogy(
        range(1, len(first.layers) + 1),
        first.norms,
        color=_GREY,
        marker="o",
        mfc="white",
        ls="--",
        ms=5,
        label=f"step 1: {group[0].run.workload.name}",
    )
    for line in group:
        run = line.run
        axes.semilogy(
            range(1, len(run.now.layers) + 1),  # a remedy may be less deep
            run.now.norms,
            color=line.colour,
            marker=line.marker,
            ls=line.dashes,
            ms=5,
            lw=2,
            label=f"step {run.now_step}: {run.workload.name}",
        )
        _mark_native_lost(axes, run)
    axes.set_title(f"{result.section.title}: {result.section.subtitle}", fontweight="bold", y=1.06)
    axes.text(
        0.5,
        1.02,
        f"step 1: {first.decades_per_layer:+.2f} decades per {result.section.unit} on the way back",
        transform=axes.transAxes,
        ha="center",
    )
    axes.set_xlabel(f"{result.section.unit} (input left, loss right)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.yaxis.set_major_locator(LogLocator(numticks=12))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="x-small")


def _mark_native_lost(axes: Axes, run: Run) -> None:
    """Shades the layers whose native float32 norm is 0 or infinite, though ours is neither."""
    lost = [run.now.layers.index(layer) + 1 for layer in run.now.native_lost]
    if not lost:
        return
    axes.axvspan(min(lost) - 0.5, max(lost) + 0.5, color=_BAND, alpha=0.45, lw=0, zorder=0)
    native = run.now.native_norms[lost[0] - 1]
    axes.annotate(
        f"native float32\nnorms print {native:.1f} here",
        xy=(max(lost) + 0.5, 0.5),
        xytext=(12, 0),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        arrowprops={"arrowstyle": "->", "color": "black"},
        va="center",
    )


def _draw_norms(axes: Axes, lines: Sequence[_Line]) -> None:
    """The total gradient norm, step by step, before clipping and after."""
    for line in lines:
        run = line.run
        steps = range(1, len(run.losses) + 1)
        axes.loglog(
            steps,
            run.norms_before,
            color=line.colour,
            marker=line.marker if run.diverged else None,
            lw=1.5,
            label=run.workload.name + ("" if run.workload.max_norm is None else ", before"),
        )
        if run.workload.max_norm is not None:
            axes.loglog(
                steps,
                run.norms_after,
                color="black",
                ls="--",
                lw=2,
                label=f"{run.workload.name}, after",
            )
        if run.diverged:
            finite = [i for i, norm in enumerate(run.norms_before) if math.isfinite(norm)]
            axes.annotate(
                f"{run.norms_before[-1]} at step {len(run.losses)}",
                (steps[finite[-1]], run.norms_before[finite[-1]]),
                xytext=(12, -4),
                textcoords="offset points",
                color=line.colour,
                fontweight="bold",
            )
    axes.set_title("Total gradient norm per step, with and without clipping", fontweight="bold")
    axes.set_xlabel("step")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    axes.set_ylabel("total gradient norm")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")


def _draw_losses(axes: Axes, lines: Sequence[_Line]) -> None:
    """The loss of every network, averaged over the last epoch, to see through the batches."""
    for line in lines:
        run = line.run
        axes.loglog(
            range(1, len(run.losses) + 1),
            _running_mean(run.losses, _LOSS_WINDOW),
            color=line.colour,
            ls=line.dashes,
            marker=line.marker if run.diverged else None,
            lw=2,
            label=f"{run.workload.name}: {run.accuracy:.2f}",
        )
    axes.axhline(math.log(CLASSES), color=_GREY, ls=":", label="guessing: log(10), 0.10")
    # A loss that runs away leaves the picture: the others could not be told apart below it.
    axes.set_ylim(top=5 * max(max(line.run.losses) for line in lines if not line.run.diverged))
    axes.set_title("Training loss and final test accuracy", fontweight="bold")
    axes.set_xlabel("step")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    axes.set_ylabel("cross entropy, running mean")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize="x-small")


def _running_mean(values: Sequence[float], window: int) -> list[float]:
    means = []
    for end in range(1, len(values) + 1):
        recent = values[max(0, end - window) : end]
        means.append(sum(recent) / len(recent))
    return means
