"""Writes what follows from the table of activations: functions, modules and the gallery.

`make generate` runs it; with `--check` it writes nothing and fails if something is out of date.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import jinja2
import torch
import typer
from activation_plots import draw

from gradkern.activations import TABLE, Activation

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = Path(__file__).parent


def described(row: Activation) -> dict[str, Any]:
    """A row with what its documentation shows: the results of the operators themselves."""
    x = torch.tensor([-2.0, 0.0, 0.5, 4.0])
    short = torch.tensor([-2.0, 0.5])
    defaults = row.defaults()
    base = getattr(torch.nn, row.module, None)
    arguments = ", ".join(f"{name}={standard}" for name, standard in row.parameters)
    names = [name for name, _ in row.parameters]
    return {
        **vars(row),
        "example": repr(row.value(x, *defaults)),
        "derivative_example": repr(row.derivative(short, *defaults)),
        "abs_max_example": round(float(row.value(short, *defaults).abs().max()), 4),
        "signature": ", ".join(["input", arguments] if arguments else ["input"]),
        "tuple": "("
        + "".join(f'as_number({name}, "{name}"), ' for name in names).rstrip(" ")
        + ")",
        "in_torch": base is not None,
        "module_example": repr(base()) if base is not None else f"{row.module}({arguments})",
    }


def rendered() -> dict[Path, str]:
    """The generated files, by their path."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    rows = [described(row) for row in TABLE.values()]
    exported = sorted(
        row.name + suffix
        for row in TABLE.values()
        for suffix in ("", "_with_derivative", "_with_stats")
    )
    package = ROOT / "gradkern"
    return {
        ROOT / "docs" / "activations.md": environment.get_template("activations.md.jinja").render(
            rows=rows
        ),
        package / "activation_functions.py": formatted(
            environment.get_template("activation_functions.py.jinja").render(
                rows=rows, exported=exported
            )
        ),
        package / "nn" / "activation_modules.py": formatted(
            environment.get_template("activation_modules.py.jinja").render(
                # GELU, which is two rows, is written by hand.
                rows=[row for row in rows if row["name"] != "gelu"]
            )
        ),
    }


def formatted(source: str) -> str:
    """As ruff sorts and formats it."""
    for arguments in (["check", "--fix", "--exit-zero"], ["format"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--quiet", "--stdin-filename", "x.py"]
        source = subprocess.run(
            [*command, "-"], input=source, capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout
    return source


def main(
    check: Annotated[bool, typer.Option("--check", help="Fail if a file is out of date.")] = False,
) -> None:
    """Writes the generated files."""
    stale = []
    for path, text in rendered().items():
        if not path.exists() or path.read_text() != text:
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    for row in TABLE.values():
        plot = ROOT / "docs" / "activations" / f"{row.name}.png"
        if not plot.exists():
            stale.append(str(plot.relative_to(ROOT)))
            if not check:
                draw(row, plot)
    if check and stale:
        sys.exit(f"out of date, run `make generate`: {', '.join(stale)}")
    print("\n".join(stale) or "nothing has changed")


if __name__ == "__main__":
    typer.run(main)
