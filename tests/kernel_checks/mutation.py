"""Whether the sanitizer executables notice when a kernel is made wrong in one small place.

`python mutation.py [PART...]` makes every mutant (mutants.py) whose description contains one of the
parts, builds and runs the executables with it, and prints which of them fails. The sanitizer that
is likelier to notice comes first: ThreadSanitizer for a missing barrier, AddressSanitizer for a
bound.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from equivalent_mutants import EQUIVALENT
from mutants import Mutant, find_mutants
from sanitizers import CSRC, ROOT, build, compiler, run

BUILD = ROOT / "build" / "mutation"


def caught_by(mutant: Mutant, csrc: Path) -> str | None:
    """What fails with the mutant in the copy of csrc at `csrc`; None if nothing does."""
    file = csrc / mutant.file
    original = file.read_text()
    file.write_text(mutant.apply(original))
    try:
        order = ("thread", "address") if mutant.is_synchronisation else ("address", "thread")
        for sanitizer in order:
            try:
                executable = build(sanitizer, csrc, BUILD)
            except RuntimeError:
                return "the compiler"
            outcome = run(executable)
            if not outcome.passed:
                return f"{sanitizer} ({_reason(outcome.output)})"
        return None
    finally:
        file.write_text(original)


def _reason(output: str) -> str:
    """The line of a failed run that says what was found."""
    marks = ("wrong: ", "SUMMARY: ", "runtime error: ", "ERROR: ", "WARNING: ")
    lines = output.splitlines()
    for mark in marks:
        for line in lines:
            if mark in line:
                return line[line.index(mark) :][:100]
    return lines[-1][:100] if lines else "no output"


def simplify(csrc: Path) -> None:
    """Leaves four of the activations, of the table that hundreds of kernels are made from: the
    kernels' source is the same for all, and compiling them all takes minutes for each mutant."""
    table = csrc / "formulas" / "activation_table.h"
    text = table.read_text()
    shorter = re.sub(r"(using Activations = FormulaList<(?:\w+, ){3}\w+)[^>]*>", r"\1>", text)
    if shorter == text:
        raise ValueError(f"{table} has no `using Activations = FormulaList<...>` to shorten")
    table.write_text(shorter)


def main(parts: Sequence[str]) -> int:
    """0 if every mutant is caught, or stands among the equivalent ones and is not."""
    csrc = BUILD / "csrc"
    shutil.rmtree(csrc, ignore_errors=True)
    shutil.copytree(CSRC, csrc)
    simplify(csrc)
    for sanitizer in ("thread", "address"):
        outcome = run(build(sanitizer, csrc, BUILD))
        if not outcome.passed:
            print(f"The original fails already:\n{outcome.last_lines()}")
            return 1

    every = find_mutants(csrc)
    names = {(m.file, m.change, m.code) for m in every}
    wrong = [
        f"equivalent_mutants.py lists what is no mutant: {n}" for n in EQUIVALENT.keys() - names
    ]
    chosen = [m for m in every if not parts or any(part in str(m) for part in parts)]
    caught = equivalent = 0
    print(f"{len(chosen)} mutants, sanitizers of {compiler('thread')} and {compiler('address')}")
    start = time.monotonic()
    for mutant in chosen:
        by = caught_by(mutant, csrc)
        reason = EQUIVALENT.get((mutant.file, mutant.change, mutant.code))
        if by is not None and reason is None:
            caught += 1
            print(f"caught      {mutant}\n            by {by}", flush=True)
        elif by is None and reason is not None:
            equivalent += 1
            print(f"equivalent  {mutant}\n            {reason}", flush=True)
        else:
            print(f"{'SURVIVED' if by is None else 'NOT EQUIVALENT'}  {mutant}", flush=True)
            wrong.append(f"survived: {mutant}" if by is None else f"caught, by {by}: {mutant}")
    minutes = (time.monotonic() - start) / 60
    print(f"caught {caught}/{len(chosen) - equivalent}", end="")
    print(f", {equivalent} equivalent, in {minutes:.0f} minutes", *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
