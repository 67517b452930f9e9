"""The demo in the terminal: a table per network, a verdict per section, a summary."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gradkern.demo import activations
from gradkern.demo.activations import Candidate
from gradkern.demo.digits import Digits
from gradkern.demo.section import Result
from gradkern.demo.training import Run

# One scale for all bars, so that networks compare: two decades a cell.
_BAR_DECADES = (-28, 20)
_BAR_WIDTH = 24

_COLOURS = {"VANISHING": "bold magenta", "EXPLODING": "bold red", "HEALTHY": "bold green"}
_SHOWN_REMEDIES = 4


def print_introduction(console: Console, digits: Digits, seed: int) -> None:
    console.print(
        f"Training on scikit-learn's handwritten digits: {len(digits.train_labels)} images to "
        f"learn from, {len(digits.test_labels)} to test, 10 classes, seed {seed}. Every norm below "
        "is measured with gradkern; beside it stands what PyTorch's own float32 norm says."
    )


def print_result(console: Console, result: Result) -> None:
    """The sick network layer by layer, the monitor's verdict on it, and what each remedy did."""
    console.print()
    console.rule(f"[bold]{result.section.title}", characters="-")
    console.print(result.section.lesson)
    console.print(_layers(result.sick))
    console.print(_diagnosis(result.sick))
    console.print()
    console.print(_recovery(result))


def _diagnosis(run: Run) -> Group:
    """What the monitor says, in short."""
    verdict = run.report.verdict
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column()
    for i, message in enumerate(verdict["evidence"]):
        facts.add_row("evidence" if i == 0 else "", Text(message))
    cause = verdict["cause"]
    if cause["evidence"]:
        facts.add_row("cause", Text(f"{cause['name']}: {cause['evidence']}"))
    for i, remedy in enumerate(verdict["remedies"][:_SHOWN_REMEDIES], 1):
        facts.add_row(f"remedy {i}", Text(f"{remedy['name']}: {remedy['call']}"))
    return Group(
        Text("The monitor's verdict:", style="bold"), _coloured(run.report.headline), facts
    )


def _recovery(result: Result) -> Table:
    """The remedies, each applied to the sick network and trained."""
    sick = result.sick
    table = Table(
        title=f"Each remedy applied, and trained (test accuracy before: {sick.accuracy:.2f})",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
    )
    table.add_column("remedy", no_wrap=True)
    for column in ("first\n/ last", "loss", "test\nacc."):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("verdict now", no_wrap=True)
    for run in result.remedies:
        table.add_row(
            run.workload.name,
            f"{run.first.first_to_last:.1e}",
            f"{run.final_loss:.2f}",
            f"{run.accuracy:.2f}",
            ProgressBar(total=1.0, completed=run.accuracy, width=_BAR_WIDTH // 2),
            Text(run.verdict, style=_COLOURS.get(run.verdict, "bold")),
        )
    return table


def print_comparison(console: Console, compared: Sequence[tuple[Candidate, Run]]) -> None:
    """Activations beside each other."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("activation", no_wrap=True)
    table.add_column("init", no_wrap=True)
    for column in ("first\n/ last", "satu-\nrated", "test\nacc."):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for candidate, run in compared:
        table.add_row(
            run.workload.name,
            candidate.scheme,
            f"{run.first.first_to_last:.1e}",
            "-" if math.isnan(run.saturated) else f"{run.saturated:.0%}",
            f"{run.accuracy:.2f}",
            ProgressBar(total=1.0, completed=run.accuracy, width=_BAR_WIDTH // 2),
            Text(run.verdict, style=_COLOURS.get(run.verdict, "bold")),
        )
    console.print()
    console.print(activations.LESSON)
    console.print(table)


def print_summary(console: Console, results: Sequence[Result]) -> None:
    table = Table(title="What happened", title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.pad_edge = False
    table.padding = (0, 1)
    table.add_column("network", no_wrap=True)
    table.add_column("first\n/ last", justify="right")
    table.add_column("decades\nper layer", justify="right")
    table.add_column("largest\nnorm", justify="right")
    table.add_column("loss", justify="right")
    table.add_column("test\nacc.", justify="right")
    table.add_column("verdict", no_wrap=True)
    for result in results:
        for run in result.runs:
            table.add_row(
                run.workload.name,
                f"{run.first.first_to_last:.1e}",
                f"{run.first.decades_per_layer:+.2f}",
                f"{run.largest_norm:.1e}",
                f"{run.final_loss:.2f}",
                f"{run.accuracy:.2f}",
                Text(run.verdict, style=_COLOURS.get(run.verdict, "bold")),
            )
    console.print()
    console.print(table)


def _layers(run: Run) -> Table:
    table = Table(
        title=f"{run.workload.name} ({run.workload.recipe})",
        caption=_caption(run),
        title_justify="left",
        caption_justify="left",
        title_style="bold",
    )
    table.add_column("gradient\nnorm of", no_wrap=True)
    table.add_column("step 1", justify="right", no_wrap=True)
    table.add_column(f"step {run.now_step}", justify="right", no_wrap=True)
    table.add_column("native\nfloat32", justify="right", no_wrap=True)
    table.add_column("zeros", justify="right", no_wrap=True)
    table.add_column(f"1e{_BAR_DECADES[0]:+d} ... 1e{_BAR_DECADES[1]:+d}", no_wrap=True)
    for layer, first, now, native, zeros in zip(
        run.now.layers,
        run.first.norms,
        run.now.norms,
        run.now.native_norms,
        run.now.zero_fractions,
        strict=True,
    ):
        table.add_row(
            layer,
            _norm(first),
            _norm(now),
            Text(_norm(native), style="bold red" if layer in run.now.native_lost else ""),
            f"{zeros:.0%}",
            _bar(now),
        )
    return table


def _caption(run: Run) -> str:
    ended = f"not finite at step {len(run.losses)}" if run.diverged else f"{len(run.losses)} steps"
    return (
        f"{ended}, loss {run.losses[0]:.2f} -> {run.final_loss:.2f}, test accuracy "
        f"{run.accuracy:.2f}, total norm up to {run.largest_norm:.1e}"
        + ("" if run.workload.max_norm is None else f", clipped to {max(run.norms_after):.2f}")
    )


def _norm(norm: float) -> str:
    """0 as "0.0", to stand out among the small."""
    return f"{norm:.1e}" if norm else "0.0"


def _bar(norm: float) -> ProgressBar:
    low, high = _BAR_DECADES
    decades = math.log10(norm) - low if norm > 0 else 0.0
    filled = min(max(decades, 0.0), high - low)
    return ProgressBar(total=high - low, completed=filled, width=_BAR_WIDTH)


def _coloured(verdict: str) -> Text:
    text = Text(verdict)
    for word, style in _COLOURS.items():
        text.highlight_words([word], style=style)
    return text
