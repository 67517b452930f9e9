"""A report: the verdict first, then evidence, cause, remedies, and the layers with their bars."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradkern.monitor.events import Event
from gradkern.monitor.history import RunHistory
from gradkern.monitor.sinks.jsonl import read_jsonl

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console, ConsoleOptions, RenderResult

# Rows of a log for plots; a page with more is slow to open.
_ROWS_FROM_FILE = 400
_BAR = 24
_SHOWN_LAYERS = 60


class Report:
    """What a monitor found, to be printed, plotted and saved.

    ``print(report)`` shows it as text; ``rich.print(report)`` in colour.

    Args:
        history: a training, with its verdict.
        title: what it is called.
    """

    def __init__(self, history: RunHistory, title: str = "training") -> None:
        self.history = history
        self.title = title

    @classmethod
    def of_log(cls, path: str | Path) -> Report:
        """Reads a JSONL log, also one that is still being written, or that a crash cut off.

        Args:
            path: what the monitor's ``log`` was.

        Raises:
            ValueError: there is no step in it.
            OSError: it can't be read.
        """
        history = RunHistory(_ROWS_FROM_FILE)
        for event in read_jsonl(path):
            history.add(event)
        if not history.steps:
            raise ValueError(f"{path} has no step in it; it must be a log of a training that began")
        return cls(history, Path(path).name)

    @property
    def verdict(self) -> Event:
        """The verdict event; with kind HEALTHY and no more where none was reached."""
        known = self.history.verdict
        if known is not None:
            return known
        step = self.history.last_step.get("step", 0)
        return {
            "kind": "verdict",
            "verdict": "HEALTHY",
            "severity": "note",
            "step": step,
            "headline": f"HEALTHY: nothing is wrong after {step} steps",
            "evidence": [],
            "remedies": [],
            "also": [],
            "cause": {"name": "unknown", "evidence": ""},
        }

    @property
    def headline(self) -> str:
        """The verdict in one line."""
        return str(self.verdict["headline"])

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        verdict = self.verdict
        yield self.headline
        yield ""
        yield f"  severity  {verdict['severity']}"
        for i, message in enumerate(verdict["evidence"]):
            yield f"  {'evidence' if i == 0 else '':8}  {message}"
        if verdict["cause"]["evidence"]:
            yield f"  cause     {verdict['cause']['name']}: {verdict['cause']['evidence']}"
        for i, remedy in enumerate(verdict["remedies"], 1):
            yield f"  remedy {i:<2} {remedy['name']}: {remedy['call']}"
            if remedy["note"]:
                yield f"            ({remedy['note']})"
        for i, line in enumerate(verdict["also"]):
            yield f"  {'also' if i == 0 else '':8}  {line}"
        yield ""
        yield self.training_line()
        yield ""
        yield f"  {'layer':28} {'gradient':>9} {'step 1':>9} {'update/w':>9}"
        for layer in self.layers():
            yield (
                f"  {layer['name'][-28:]:28} {_shown(layer['gradient']):>9} "
                f"{_shown(layer['first']):>9} {_shown(layer['update']):>9}  {layer['bar']}"
            )

    def training_line(self) -> str:
        """Loss, learning rate and norms of the last step."""
        step = self.history.last_step
        before, after = (float(step[f"total_norm_{when}_clipping"]) for when in ("before", "after"))
        return (
            f"step {step['step']}: loss {float(step['loss']):.4g}, learning rate "
            f"{float(step['learning_rate']):.3g}, total gradient norm {before:.3g} before and "
            f"{after:.3g} after clipping{self._cost_of_updates()}"
        )

    def _cost_of_updates(self) -> str:
        run = self.history.run
        if run.get("updates") != "exact":
            return ""
        return f"; exact updates hold {run['updates_bytes'] / 2**20:.3g} MiB, as the parameters do"

    def layers(self) -> list[dict[str, Any]]:
        """The weights from the input to the loss: name, norms now and at first, update, bar.

        Of very many every n-th is there.
        """
        history = self.history
        if history.last is None or history.first is None:
            return []
        chosen = [i for i, matrix in enumerate(history.run["matrices"]) if matrix]
        chosen = chosen[:: -(-len(chosen) // _SHOWN_LAYERS)] if chosen else []
        now = history.last.gradient.astype(float)
        first = history.first.gradient.astype(float)
        update = history.last.update.astype(float)
        shown = now[chosen][np.isfinite(now[chosen])]
        low, high = (shown.min(), shown.max()) if len(shown) else (0.0, 0.0)
        low = min(low, high - 1)
        return [
            {
                "name": history.run["layers"][i] or history.run["parameters"][i],
                "gradient": _power(now[i]),
                "first": _power(first[i]) if i < len(first) else math.nan,
                "update": _power(update[i]),
                "share": _share(now[i], low, high),
                "bar": "#" * round(_BAR * _share(now[i], low, high)),
            }
            for i in chosen
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from gradkern.monitor.terminal import rendered

        yield from rendered(self)

    def html(self, path: str | Path) -> Path:
        """Writes one HTML file that needs nothing else, also offline.

        Args:
            path: of the file.

        Raises:
            ImportError: plotly or jinja2 is missing (``pip install "gradkern[monitor]"``).
        """
        from gradkern.monitor.html import page

        target = Path(path)
        target.write_text(page(self), encoding="utf-8")
        return target

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draws the five plots: depth, heat map, updates, norms and loss, saturation and death.

        Args:
            path: where to save them, if anywhere; the suffix chooses the format.

        Returns:
            The matplotlib figure.

        Raises:
            ImportError: matplotlib is missing (``pip install "gradkern[monitor]"``).
        """
        from gradkern.monitor.plot import draw, save

        figure = draw(self)
        if path is not None:
            save(figure, Path(path))
        return figure


def _power(decades: float) -> float:
    return float(10.0**decades) if not math.isnan(decades) else math.nan


def _shown(value: float) -> str:
    """0 as "0", to tell it from what is small."""
    if math.isnan(value):
        return "-"
    return f"{value:.1e}" if value else "0"


def _share(decades: float, low: float, high: float) -> float:
    if not math.isfinite(decades) or high <= low:
        return 0.0
    return (decades - low) / (high - low)
