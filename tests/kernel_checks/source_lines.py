"""What a kernel's source says about the instructions made from one of its lines."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import NamedTuple

from kernels import CPP_TYPES, DType


class SourceLine(NamedTuple):
    """A place in a file, from 1."""

    file: str
    line: int


def dtype_of_template(short_name: str) -> DType | None:
    """The dtype that a function's template arguments name first, if they name one."""
    arguments = short_name.partition("<")[2]
    names = {cpp: dtype for dtype, cpp in CPP_TYPES.items()}
    longest_first = sorted(names, key=len, reverse=True)  # Complex<float> before float
    match = re.search(rf"(?<!\w)({'|'.join(map(re.escape, longest_first))})(?!\w)", arguments)
    return names[match.group(1)] if match else None


def may_be_scalar(place: SourceLine) -> bool:
    """Whether the comment above a line says, by `Scalar:`, that it needn't access whole vectors."""
    lines = _lines(place.file)
    for text in reversed(lines[: place.line - 1]):
        if text.strip().startswith("// Scalar: "):
            return True
        if not text.strip().startswith(("//", "#pragma")):
            return False
    return False


def claimed_blocks(csrc: Path, symbol: str) -> int | None:
    """How many blocks of a kernel the comment above its definition says that an SM has room for.

    `// Occupancy: 5 blocks on an SM, 2 for ScaledPowers` claims 2 for `f<ScaledPowers>`, and 5 for
    any other `f<...>`.
    """
    name, _, arguments = symbol.partition("<")
    for file in sorted((csrc / "cuda").glob("*.cu*")):
        match = re.search(
            rf"((?:^//.*\n)+)(?:^template.*\n)?^__global__[^;{{]*?\b{name}\(",
            file.read_text(),
            re.M,
        )
        if match:
            claim = re.search(
                r"Occupancy: (\d+) blocks? on an SM((?:, \d+ for \w+)*)", match.group(1)
            )
            if claim:
                special = re.findall(r", (\d+) for (\w+)", claim.group(2))
                exact = (int(n) for n, what in special if re.search(rf"\b{what}\b", arguments))
                return next(exact, int(claim.group(1)))
    return None


@functools.cache
def _lines(file: str) -> list[str]:
    return Path(file).read_text().splitlines()
