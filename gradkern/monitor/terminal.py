"""A report in the terminal's colours, and the live line; needs rich."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gradkern.monitor.events import Event

if TYPE_CHECKING:
    from gradkern.monitor.report import Report

_STYLES = {"note": "green", "warning": "yellow", "error": "red"}
_BAR = 24
# Often enough to look alive.
_LIVE_SECONDS = 0.25
_LOG_SECONDS = 30.0


def rendered(report: Report) -> Iterator[RenderableType]:
    """The parts of a report, one below the other."""
    verdict = report.verdict
    style = _STYLES[verdict["severity"]]
    yield Panel(Text(report.headline, style=f"bold {style}"), title=report.title, style=style)
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column()
    for i, message in enumerate(verdict["evidence"]):
        facts.add_row("evidence" if i == 0 else "", Text(message))
    if verdict["cause"]["evidence"]:
        cause = verdict["cause"]
        facts.add_row("cause", Text(f"{cause['name']}: {cause['evidence']}"))
    for i, remedy in enumerate(verdict["remedies"], 1):
        text = Text(remedy["name"], style="bold")
        text.append(f"\n{remedy['call']}", style="cyan not bold")
        if remedy["note"]:
            text.append(f"\n{remedy['note']}", style="dim not bold")
        facts.add_row(f"remedy {i}", text)
    for i, line in enumerate(verdict["also"]):
        facts.add_row("also" if i == 0 else "", Text(line, style="dim"))
    yield facts
    yield Text(report.training_line())
    yield _layers(report)


def _layers(report: Report) -> Table:
    table = Table(title="weights, from the input to the loss", title_justify="left")
    table.add_column("layer", overflow="fold")
    for column in ("gradient norm", "at step 1", "update / weight"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("gradient norm, log scale", no_wrap=True)
    for layer in report.layers():
        table.add_row(
            Text(layer["name"]),
            *(f"{layer[key]:.1e}" for key in ("gradient", "first", "update")),
            ProgressBar(total=1.0, completed=layer["share"], width=_BAR),
        )
    return table


class LiveLine:
    """A sink that shows the last step in one line of a terminal; elsewhere a line now and then.

    Args:
        console: where; standard error if not given, as progress bars do.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live: Live | None = None
        self._shown_at = 0.0
        self._state = Text("HEALTHY", style="green")

    def __call__(self, event: Event) -> None:
        if event["kind"] == "verdict":
            style = _STYLES[event["severity"]]
            self._state = Text(event["verdict"], style=f"bold {style}")
        elif event["kind"] == "step":
            self._show(event)

    def _show(self, step: Event) -> None:
        now = time.monotonic()
        terminal = self._console.is_terminal
        if now - self._shown_at < (_LIVE_SECONDS if terminal else _LOG_SECONDS):
            return
        self._shown_at = now
        line = Text.assemble(status_line(step), "  ", self._state)
        line.no_wrap = True
        if not terminal:
            self._console.print(line, soft_wrap=True)
            return
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(Group(line), refresh=True)

    def close(self) -> None:
        """Takes the line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def status_line(step: Event) -> str:
    """A step in a line."""

    def number(name: str) -> str:
        value: Any = step[name]
        return f"{float(value):.3g}"

    before, after = number("total_norm_before_clipping"), number("total_norm_after_clipping")
    norm = before if before == after else f"{before} -> {after}"
    return f"step {step['step']}  loss {number('loss')}  |g| {norm}  lr {number('learning_rate')}"
