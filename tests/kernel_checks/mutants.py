"""Finds the places where a kernel's source can be made wrong in one small step.

Every barrier, warp synchronisation and fence is deleted, and every `<` that bounds a loop becomes
`<=`, one at a time; so does that of a function `has...`, which a loop's condition asks whether
there is more. The sources are scanned for them, so that a new kernel needs no entry anywhere.

All mutants are compiled into one program: each place asks `mutant_is_alive` (sanitized/mutation)
whether it is the one that is wrong in this run.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

# Device code. Planning (launch_plan.*) is host code with tests of its own.
DEVICE_SOURCES = ("cuda/*.cuh", "cuda/*.cu", "formulas/*.h")

_SYNCHRONISATION = re.compile(
    r"\b(?:__syncthreads(?:_count|_and|_or)?|__syncwarp|__threadfence(?:_block|_system)?)\s*\("
)
_LOOP = re.compile(r"\b(for|while)\s*\(")
_LOOPS_CONDITION = re.compile(r"\bbool has\w*\([^()]*\) const \{")
_COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A change of one place in a file of csrc.

    Args:
        file: relative to csrc.
        line: of the place, from 1.
        start, end: what is replaced, as offsets in the file.
        switch: by what: C++ that does what stood there, but for `mutant_is_alive({})`.
        change: for people, and for the list of equivalent mutants.
        code: the line as it was, without indentation and comment.
    """

    file: str
    line: int
    start: int
    end: int
    switch: str
    change: str
    code: str

    @property
    def is_synchronisation(self) -> bool:
        return self.change != "< to <="

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.change}: {self.code}"


def find_mutants(csrc: Path) -> list[Mutant]:
    """All mutants of the device code in `csrc`."""
    files = sorted(file for pattern in DEVICE_SOURCES for file in csrc.glob(pattern))
    return [
        mutant
        for file in files
        for mutant in mutants_of(file.relative_to(csrc).as_posix(), file.read_text())
    ]


def with_switches(text: str, mutants: Sequence[tuple[int, Mutant]]) -> str:
    """A file's text with all of its mutants in it, by their numbers."""
    for number, mutant in sorted(mutants, key=lambda each: each[1].start, reverse=True):
        alive = mutant.switch.replace("{}", str(number))
        text = text[: mutant.start] + alive + text[mutant.end :]
    return text


def mutants_of(file: str, text: str) -> list[Mutant]:
    """All mutants of one file, in the order of their places."""
    code = _COMMENT_OR_STRING.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)

    def mutant(start: int, end: int, switch: str, change: str) -> Mutant:
        line = code.count("\n", 0, start) + 1
        return Mutant(file, line, start, end, switch, change, code.split("\n")[line - 1].strip())

    found = []
    for match in _SYNCHRONISATION.finditer(code):
        close = _closing(code, match.end() - 1)
        call, argument = code[match.start() : close + 1], code[match.end() : close]
        is_statement = re.match(r"\s*;", code[close + 1 :])
        # Of a vote that is not taken every thread gets its own.
        without, change = (
            ("void()", "deleted") if is_statement else (f"({argument})", "vote not taken")
        )
        switch = f"(mutant_is_alive({{}}) ? {without} : {call})"
        found.append(mutant(match.start(), close + 1, switch, change))
    bounds = [place for match in _LOOP.finditer(code) for place in _bounds(code, match)]
    for match in _LOOPS_CONDITION.finditer(code):
        bounds += _less_than(code, match.end(), code.index("}", match.end()))
    for place in bounds:
        found.append(mutant(place, place + 1, "< mutant_is_alive({}) +", "< to <="))
    return sorted(found, key=lambda m: m.start)


def _bounds(code: str, loop: re.Match[str]) -> Iterator[int]:
    """Where the condition of a loop says ` < `."""
    start, end = loop.end(), _closing(code, loop.end() - 1)
    if loop.group(1) == "for":
        first = code.find(";", start, end)
        if first == -1:  # over a range
            return
        start, end = first, code.find(";", first + 1, end)
    yield from _less_than(code, start, end)


def _less_than(code: str, start: int, end: int) -> Iterator[int]:
    """Where the code says ` < `; clang-format sees to it that no template's arguments do."""
    for match in re.finditer(r"(?<=\s)<(?=\s)", code[start:end]):
        yield start + match.start()


def _closing(code: str, opening: int) -> int:
    """Where the parenthesis that opens at `opening` closes."""
    depth = 0
    for i in range(opening, len(code)):
        depth += {"(": 1, ")": -1}.get(code[i], 0)
        if depth == 0:
            return i
    raise ValueError(f"the parenthesis at {opening} is never closed")
