"""The command line, `gradkern`: its commands and their options."""

# No `from __future__ import annotations`: typer reads the annotations of the commands, which name
# what is imported inside a function.
import json as json_format
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import gradkern

if TYPE_CHECKING:
    import typer

    from gradkern.monitor.report import Report

_EXTRA_PACKAGES = frozenset({"typer", "rich", "sklearn", "matplotlib", "plotly", "jinja2"})
# Where the output is not a terminal, rich assumes 80 columns and would fold the layers.
_REPORT_WIDTH = 140


def main() -> None:
    """Runs the command line; where the `demo` extra is missing, says in one line how to get it."""
    try:
        create_app()()
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in _EXTRA_PACKAGES:
            raise
        sys.exit(
            f"gradkern: this command needs the package {missing.name}, which is not installed; "
            'install it with: pip install "gradkern[demo]"'
        )


def create_app() -> "typer.Typer":
    """The typer application; typer and rich are imported here, as they come with an extra."""
    import typer

    app = typer.Typer(
        help="Fused kernels and measurements against vanishing and exploding gradients.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    @app.command()
    def info(
        json: Annotated[
            bool, typer.Option("--json", help="Print JSON instead of a table.")
        ] = False,
    ) -> None:
        """Print what this installation is made of and runs on."""
        build = gradkern.build_info()
        if json:
            typer.echo(json_format.dumps(build, indent=2))
        else:
            _print_build(build)

    @app.command()
    def demo(
        output: Annotated[
            Path, typer.Option(help="File of the plot; its suffix chooses the format.")
        ] = Path("gradkern-demo.png"),
        seed: Annotated[
            int, typer.Option(min=0, max=2**32 - 1, help="Seed; the same gives the same numbers.")
        ] = 0,
        quick: Annotated[
            bool, typer.Option("--quick", help="Train for a few epochs only.")
        ] = False,
        no_plot: Annotated[bool, typer.Option("--no-plot", help="Draw no plot.")] = False,
    ) -> None:
        """Train sick networks, hear the monitor's verdict, apply remedies, measure the recovery."""
        from gradkern.demo.show import show

        if not no_plot:
            _check_output(output)
        show(seed=seed, quick=quick, output=None if no_plot else output)

    @app.command()
    def doctor(
        training: Annotated[
            str,
            typer.Argument(
                help="module:function; the function returns (model, loss, batches), or these and "
                "an optimizer."
            ),
        ],
        steps: Annotated[int, typer.Option(min=1, help="How many steps to train.")] = 300,
        max_norm: Annotated[
            float | None, typer.Option(min=0.0, help="Clip gradients to this total norm.")
        ] = None,
        seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of torch.")] = 0,
        log: Annotated[Path | None, typer.Option(help="Write every step to this file.")] = None,
        html: Annotated[Path | None, typer.Option(help="Write the report to this file.")] = None,
    ) -> None:
        """Train for some steps and say what is wrong, why, and what to do. Exit code 1: errors."""
        import torch

        from gradkern.monitor.doctor import examine, load

        torch.manual_seed(seed)
        try:
            made = load(training)
        except (ValueError, TypeError, ImportError, AttributeError) as error:
            raise typer.BadParameter(str(error), param_hint="TRAINING") from error
        report = examine(made, steps, max_norm, log, live=sys.stderr.isatty())
        _show_report(report, html, None)
        raise typer.Exit(report.verdict["severity"] == "error")

    @app.command()
    def report(
        log: Annotated[Path, typer.Argument(help="A JSONL log of gradkern.Monitor.")],
        html: Annotated[Path | None, typer.Option(help="Write one HTML file.")] = None,
        plot: Annotated[Path | None, typer.Option(help="Draw the plots to this file.")] = None,
    ) -> None:
        """Show what a monitor has logged, of a training that runs, has ended, or has crashed."""
        from gradkern.monitor.report import Report

        try:
            read = Report.of_log(log)
        except (ValueError, OSError) as error:
            raise typer.BadParameter(str(error), param_hint="LOG") from error
        _show_report(read, html, plot)

    return app


def _show_report(report: "Report", html: Path | None, plot: Path | None) -> None:
    """Prints a report, and writes it where wanted."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=_REPORT_WIDTH)
    console.print(report)
    if html is not None:
        console.print(f"Report: {report.html(html)}", soft_wrap=True, highlight=False)
    if plot is not None:
        report.plot(plot)
        console.print(f"Plots: {plot}", soft_wrap=True, highlight=False)


def _check_output(output: Path) -> None:
    """Refuses, before the training and not after it, a file that could not be written."""
    import typer
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    formats = FigureCanvasAgg.get_supported_filetypes()
    if output.suffix.lower().removeprefix(".") not in formats:
        raise typer.BadParameter(
            f"{output} has the suffix {output.suffix!r}; it must be one of {', '.join(formats)}",
            param_hint="--output",
        )
    if not output.parent.is_dir():
        raise typer.BadParameter(
            f"{output.parent} is not a directory; it must exist", param_hint="--output"
        )


def _print_build(build: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    cuda = build["cuda"]
    table = Table(title=f"gradkern {build['version']}", show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row("torch, built against", build["torch_built"])
    table.add_row("torch, running", build["torch_running"])
    table.add_row("CPU instruction set in use", build["cpu_isa"])
    table.add_row("CPU instruction sets usable", ", ".join(build["cpu_isas"]))
    table.add_row("CPU threads", str(build["threads"]))
    table.add_row("CUDA kernels built for", ", ".join(cuda["architectures"]) or "nothing")
    table.add_row("CUDA kernels loaded", "yes" if cuda["loaded"] else f"no: {cuda['reason']}")
    Console().print(table)
