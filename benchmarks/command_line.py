"""The command line that every family shares."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

import gradkern
from benchmarks import results_json, results_plot, results_table
from benchmarks.measurement import QUICK, Settings, measure
from benchmarks.paired_timing import Budget
from benchmarks.rows import Row

Family = Callable[[torch.device, bool], Iterable[Row[Any]]]

RESULTS = Path(__file__).parent / "results"
# Where the output is not a terminal, rich assumes 80 columns and would cut the table.
TABLE_WIDTH = 165


def devices() -> list[torch.device]:
    """The CPU, and the GPU where there is one and gradkern's kernels for it are loaded."""
    found = [torch.device("cpu")]
    if torch.cuda.is_available():
        kernels = gradkern.build_info()["cuda"]
        if kernels["loaded"]:
            found.append(torch.device("cuda"))
        else:
            typer.echo(f"No rows for the GPU: {kernels['reason']}", err=True)
    return found


def application(families: Mapping[str, Family], name: str) -> typer.Typer:
    """A command that measures `families`; `name` names its default output files."""
    app = typer.Typer(add_completion=False)

    @app.command()
    def run(
        quick: Annotated[bool, typer.Option("--quick", help="Tiny workloads, few pairs.")] = False,
        json_path: Annotated[Path, typer.Option("--json", help="Where the figures go.")] = (
            RESULTS / f"{name}.json"
        ),
        plot_path: Annotated[Path, typer.Option("--plot", help="Where the picture goes.")] = (
            RESULTS / f"{name}.png"
        ),
        pattern: Annotated[
            str, typer.Option("--filter", help="Only rows whose title has this expression.")
        ] = "",
        seconds: Annotated[
            float, typer.Option(min=0.0, help="How long each row is timed, at least.")
        ] = Budget().seconds,
        threads: Annotated[
            int | None, typer.Option(min=1, help="CPU threads; torch's default if not given.")
        ] = None,
    ) -> None:
        """Times gradkern against native PyTorch: paired, interleaved, medians and quartiles."""
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            wanted = re.compile(pattern, re.IGNORECASE)
        except re.error as error:
            raise typer.BadParameter(f"{pattern!r} must be a regular expression: {error}") from None
        rows = [
            row
            for device in devices()
            for family in families.values()
            for row in family(device, quick)
            if wanted.search(row.title)
        ]
        if not rows:
            raise typer.BadParameter(f"--filter: no row's title matches {pattern!r}")

        with Console(stderr=True).status("") as status:
            measured = measure(
                rows, QUICK if quick else Settings(Budget(seconds=seconds)), status.update
            )
        console = Console()
        if not console.is_terminal:
            console = Console(width=TABLE_WIDTH)
        console.print(results_table.report(measured))
        for path in (json_path, plot_path):
            path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(results_json.document(measured), indent=1) + "\n")
        results_plot.draw(measured, plot_path)
        console.print(f"written: {json_path}, {plot_path}", soft_wrap=True)

    return app
