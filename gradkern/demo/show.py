"""Runs the sections one after the other and shows each as soon as it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gradkern.demo import activations, digits, exploding, learning_rate, terminal, vanishing
from gradkern.demo.digits import Digits
from gradkern.demo.section import Result, Section
from gradkern.demo.training import Run, Workload, train

SECTIONS: tuple[Section, ...] = (
    vanishing.SECTION,
    learning_rate.SECTION,
    exploding.SECTION,
)


def show(
    *,
    seed: int = 0,
    quick: bool = False,
    output: Path | None = None,
    console: Console | None = None,
) -> list[Result]:
    """Trains every section's networks, prints the monitor's verdicts, and draws the plot.

    Args:
        seed: for the split of the data, the initial weights and the order of the batches. The same
            seed gives the same numbers.
        quick: a few epochs only: the gradients of the first step are the same, the training is cut.
        output: file of the plot; None draws none. The monitor's report on the first sick network
            goes beside it, as HTML.
        console: for the tables (default: standard output). The progress bar joins them where that
            is a terminal; else it goes to standard error, so that what is written elsewhere is the
            same from run to run.

    Returns:
        One result per section.
    """
    console = console or Console()
    data = digits.load(seed)
    terminal.print_introduction(console, data, seed)
    workloads = [w for section in SECTIONS for w in section.workloads]
    workloads += [candidate.workload for candidate in activations.CANDIDATES]
    steps = sum(w.steps(data, quick) for w in workloads)
    results = []
    with _one_thread(), torch.random.fork_rng(devices=[]), _progress(console) as progress:
        bar = _Bar(progress, steps, data, quick)
        for section in SECTIONS:
            label = section.title.lower()
            runs = [bar.train(label, workload, seed) for workload in section.workloads]
            result = Result(section, tuple(runs))
            terminal.print_result(console, result)
            results.append(result)
            if section is vanishing.SECTION:
                compared = [
                    (candidate, bar.train("activations", candidate.workload, seed))
                    for candidate in activations.CANDIDATES
                ]
                terminal.print_comparison(console, compared)
        bar.finish()
    terminal.print_summary(console, results)
    if output is not None:
        from gradkern.demo import plot  # here, as --no-plot has no use for matplotlib

        plot.save(results, output)
        console.print(f"Plot: {output}", soft_wrap=True, highlight=False)
        page = results[0].sick.report.html(output.with_suffix(".html"))
        console.print(
            f"The monitor's report on the {results[0].sick.workload.name}, with its plots, for a "
            f"browser: {page}",
            soft_wrap=True,
            highlight=False,
        )
    return results


class _Bar:
    """Trains, and moves the progress bar on."""

    def __init__(self, progress: Progress, steps: int, data: Digits, quick: bool) -> None:
        self._progress = progress
        self._task = progress.add_task("training", total=steps)
        self._data, self._quick = data, quick
        self._done = 0

    def train(self, label: str, workload: Workload, seed: int) -> Run:
        self._progress.update(self._task, description=f"{label}: {workload.name}")
        run = train(
            workload,
            self._data,
            seed=seed,
            quick=self._quick,
            on_step=lambda: self._progress.advance(self._task),
        )
        self._done += workload.steps(self._data, self._quick)  # also when it diverged before
        self._progress.update(self._task, completed=self._done)
        return run

    def finish(self) -> None:
        self._progress.update(self._task, description="done")


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        console=console if console.is_terminal else Console(stderr=True),
        transient=console.is_terminal,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Matrices of 64 by 64 are too small to share: a second thread costs more than it brings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
