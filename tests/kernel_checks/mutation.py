"""Whether the sanitizer executables notice when a kernel is made wrong in one small place.

`python mutation.py [PART...]` builds each executable once, with all mutants in it (mutants.py).
Every mutant whose description contains one of the parts is then brought to life in runs of the
cases that pass its place, the quickest first, until one fails. The sanitizer that is likelier to
notice comes first: ThreadSanitizer for a missing barrier, AddressSanitizer for a bound.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from equivalent_mutants import EQUIVALENT
from mutants import Mutant, find_mutants, with_switches
from sanitizers import CASES, CSRC, ROOT, SANITIZERS, Outcome, build, compiler, run
from source_copies import with_few_activations, write_copy

BUILD = ROOT / "build" / "mutation"


class OriginalFailsError(RuntimeError):
    """A case fails with no mutant alive."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A case of the executable of a sanitizer.

    Args:
        seconds: what it takes with no mutant alive.
        passes: the numbers of the mutants whose places it passes.
    """

    name: str
    executable: Path
    seconds: float
    passes: frozenset[int]

    @classmethod
    def measured(cls, executable: Path, name: str) -> Case:
        """Runs it with no mutant alive."""
        outcome = run(executable, [name])
        passed = re.search(r"^passed mutants:([ \d]*)$", outcome.output, re.M)
        if not outcome.passed or passed is None:
            raise OriginalFailsError(f"The original fails already:\n{outcome.last_lines()}")
        return cls(name, executable, outcome.seconds, frozenset(map(int, passed[1].split())))

    def run_with(self, number: int) -> Outcome:
        """Runs it with a mutant alive, which may never end."""
        limit = 30 + 20 * self.seconds
        return run(self.executable, [self.name], {"GRADKERN_MUTANT": str(number)}, limit)


def caught_by(mutant: Mutant, number: int, cases: dict[str, list[Case]]) -> str | None:
    """What fails with the mutant alive; None if nothing does.

    Args:
        cases: of each sanitizer.
    """
    for sanitizer in SANITIZERS if mutant.is_synchronisation else reversed(SANITIZERS):
        passing = [case for case in cases[sanitizer] if number in case.passes]
        for case in sorted(passing, key=lambda case: case.seconds):
            outcome = case.run_with(number)
            if not outcome.passed:
                return f"{sanitizer}, {case.name} ({_reason(outcome.output)})"
    return None


def _reason(output: str) -> str:
    """The line of a failed run that says what was found."""
    marks = ("wrong: ", "SUMMARY: ", "runtime error: ", "ERROR: ", "WARNING: ")
    lines = output.splitlines()
    for mark in marks:
        for line in lines:
            if mark in line:
                return line[line.index(mark) :][:100]
    return lines[-1][:100] if lines else "no output"


def write_sources(original: Path, copy: Path) -> list[Mutant]:
    """A copy of csrc with all mutants in it; returns them. Each one's number is its index."""
    mutants = find_mutants(original)

    def change(name: str, text: str) -> str:
        numbered = [(i, mutant) for i, mutant in enumerate(mutants) if mutant.file == name]
        return with_few_activations(name, with_switches(text, numbered))

    write_copy(original, copy, change)
    return mutants


def verdict(mutant: Mutant, by: str | None) -> tuple[str, str, bool]:
    """What became of a mutant, why, and whether that is as it should be."""
    reason = EQUIVALENT.get((mutant.file, mutant.change, mutant.code))
    if by is None:
        return ("SURVIVED", "", False) if reason is None else ("equivalent", reason, True)
    return ("caught", by, True) if reason is None else ("NOT EQUIVALENT", by, False)


def main(parts: Sequence[str]) -> int:
    """0 if every mutant is caught, or stands among the equivalent ones and is not."""
    mutants = write_sources(CSRC, BUILD / "csrc")
    names = {(m.file, m.change, m.code) for m in mutants}
    for entry in EQUIVALENT.keys() - names:
        print(f"equivalent_mutants.py lists what is no mutant: {entry}")
    chosen = [
        (number, mutant)
        for number, mutant in enumerate(mutants)
        if not parts or any(part in str(mutant) for part in parts)
    ]
    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        executables = {
            name: build(name, BUILD / "csrc", BUILD, mutation=True) for name in SANITIZERS
        }
        jobs = [(executables[name], case) for name in SANITIZERS for case in CASES]
        try:
            measured = list(pool.map(lambda job: Case.measured(*job), jobs))
        except OriginalFailsError as error:
            print(error)
            return 1
        cases = {
            name: [case for case in measured if case.executable == executables[name]]
            for name in SANITIZERS
        }
        print(
            f"{len(chosen)} mutants, sanitizers of {compiler('thread')} and {compiler('address')}; "
            f"{(time.monotonic() - start) / 60:.0f} minutes until here",
            flush=True,
        )
        caught = pool.map(lambda each: caught_by(each[1], each[0], cases), chosen)
        counts: dict[str, int] = {}
        all_well = EQUIVALENT.keys() <= names
        for (_, mutant), by in zip(chosen, caught, strict=True):
            what, why, is_well = verdict(mutant, by)
            print(f"{what:<15} {mutant}" + (f"\n{'':15} {why}" if why else ""), flush=True)
            counts[what] = counts.get(what, 0) + 1
            all_well &= is_well
    others = "".join(f", {n} {what}" for what, n in counts.items() if what != "caught")
    minutes = (time.monotonic() - start) / 60
    total = len(chosen) - counts.get("equivalent", 0)
    print(f"caught {counts.get('caught', 0)}/{total}{others}, in {minutes:.0f} minutes")
    return 0 if all_well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
