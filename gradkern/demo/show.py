"""Trains the sections' networks and shows each section as soon as its networks are trained."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gradkern.demo import activations, digits, exploding, learning_rate, terminal, vanishing
from gradkern.demo.digits import Digits
from gradkern.demo.section import Result, Section
from gradkern.demo.side_by_side import train_all
from gradkern.demo.training import Run, Workload

SECTIONS: tuple[Section, ...] = (
    vanishing.SECTION,
    learning_rate.SECTION,
    exploding.SECTION,
)
# More would bring little: each holds torch, and there are some twenty networks.
_MOST_PROCESSES = 4


def show(
    *,
    seed: int = 0,
    quick: bool = False,
    output: Path | None = None,
    console: Console | None = None,
    processes: int | None = None,
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
        processes: how many networks are trained at a time; the numbers do not depend on it.
            Default: one for each thread that torch would use, at most four; one if it is quick, as
            starting others would take as long.

    Returns:
        One result per section.
    """
    console = console or Console()
    if processes is None:
        processes = 1 if quick else min(torch.get_num_threads(), _MOST_PROCESSES)
    data = digits.load(seed)
    terminal.print_introduction(console, data, seed)
    results = []
    with (
        _progress(console) as progress,
        closing(_trained(progress, data, seed, quick, processes)) as runs,
    ):
        for section in SECTIONS:
            result = Result(section, tuple(islice(runs, len(section.workloads))))
            terminal.print_result(console, result)
            results.append(result)
            if section is vanishing.SECTION:
                compared = [(candidate, next(runs)) for candidate in activations.CANDIDATES]
                terminal.print_comparison(console, compared)
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


def _planned() -> Iterator[tuple[str, Workload]]:
    """All trainings in the order in which they are shown, each with the part that it belongs to."""
    for section in SECTIONS:
        for workload in section.workloads:
            yield section.title.lower(), workload
        if section is vanishing.SECTION:
            for candidate in activations.CANDIDATES:
                yield "activations", candidate.workload


def _trained(
    progress: Progress, data: Digits, seed: int, quick: bool, processes: int
) -> Generator[Run]:
    """The runs of what is planned; the bar says which of them is waited for."""
    planned = list(_planned())
    workloads = [workload for _, workload in planned]
    steps = sum(workload.steps(data, quick) for workload in workloads)
    task = progress.add_task("", total=steps)
    trained = train_all(
        workloads,
        data,
        seed=seed,
        quick=quick,
        processes=processes,
        on_progress=lambda made: progress.update(task, completed=made),
    )
    with closing(trained):
        for part, workload in planned:
            progress.update(task, description=f"{part}: {workload.name}")
            yield next(trained)


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
