"""Copies of csrc that differ from it in a few places."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path


def write_copy(original: Path, copy: Path, change: Callable[[str, str], str]) -> None:
    """Writes a copy, in which files that are as before keep their dates.

    Args:
        change: what becomes of a file's name, relative to `original`, and text.
    """
    files = [file for file in sorted(original.rglob("*")) if file.is_file()]
    for file in files:
        name = file.relative_to(original).as_posix()
        text = change(name, file.read_text())
        target = copy / name
        if not target.exists() or target.read_text() != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    for file in [file for file in copy.rglob("*") if file.is_file()]:
        if not (original / file.relative_to(copy)).exists():
            file.unlink()


def with_few_activations(name: str, text: str) -> str:
    """Leaves four of the activations, of the table that hundreds of kernels are made from: what
    they load, store and share is the same for all, and to compile them all takes minutes.

    Raises:
        ValueError: if the table is not where it is looked for.
    """
    if name != "formulas/activation_table.h":
        return text
    shorter = re.sub(r"(using Activations = FormulaList<(?:\w+, ){3}\w+)[^>]*>", r"\1>", text)
    if shorter == text:
        raise ValueError(f"{name} has no `using Activations = FormulaList<...>` to shorten")
    return shorter
