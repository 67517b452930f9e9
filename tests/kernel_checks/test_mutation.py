"""What becomes of a mutant, with stand-ins for the executables."""

from __future__ import annotations

import sys
from pathlib import Path

import mutation
import pytest
import sanitizers
from equivalent_mutants import EQUIVALENT
from mutants import Mutant, find_mutants, mutants_of
from source_copies import with_few_activations

TEXT = "__syncthreads();\nfor (int i = 0; i < n; i++) {}\n"
BARRIER, BOUND = mutants_of("cuda/kernel.cuh", TEXT)
NUMBER = 7


class Lanes:
    """Executables whose cases fail as `failing` says; notes what ran."""

    def __init__(self) -> None:
        self.failing: dict[tuple[str, str], str] = {}
        self.ran: list[tuple[str, str]] = []
        self.cases = {
            sanitizer: [
                mutation.Case("slow", Path(sanitizer), 2, frozenset({NUMBER})),
                mutation.Case("elsewhere", Path(sanitizer), 0, frozenset({1, 2})),
                mutation.Case("quick", Path(sanitizer), 1, frozenset({1, NUMBER})),
            ]
            for sanitizer in sanitizers.SANITIZERS
        }

    def run(
        self, executable: Path, cases: list[str], environment: dict[str, str], limit: float
    ) -> sanitizers.Outcome:
        assert environment == {"GRADKERN_MUTANT": str(NUMBER)}
        assert limit > 30
        (case,) = cases
        self.ran.append((executable.name, case))
        output = self.failing.get((executable.name, case))
        return sanitizers.Outcome(output is None, output or "", 1)


@pytest.fixture
def lanes(monkeypatch: pytest.MonkeyPatch) -> Lanes:
    lanes = Lanes()
    monkeypatch.setattr(mutation, "run", lanes.run)
    return lanes


def test_a_survivor_has_passed_every_case_of_both_that_comes_by(lanes: Lanes) -> None:
    assert mutation.caught_by(BOUND, NUMBER, lanes.cases) is None
    both = [("address", "quick"), ("address", "slow"), ("thread", "quick"), ("thread", "slow")]
    assert lanes.ran == both


@pytest.mark.parametrize(
    ("mutant", "first"), [(BARRIER, "thread"), (BOUND, "address")], ids=["barrier", "bound"]
)
def test_the_likelier_one_comes_first(lanes: Lanes, mutant: Mutant, first: str) -> None:
    report = "a case\nSUMMARY: data race in f\nend"
    lanes.failing = {(name, "quick"): report for name in sanitizers.SANITIZERS}
    caught = mutation.caught_by(mutant, NUMBER, lanes.cases)
    assert caught == f"{first}, quick (SUMMARY: data race in f)"
    assert lanes.ran == [(first, "quick")]


def test_the_second_may_catch_it(lanes: Lanes) -> None:
    lanes.failing = {("thread", "slow"): "wrong: norm 0 was 1, must be 2"}
    caught = mutation.caught_by(BOUND, NUMBER, lanes.cases)
    assert caught == "thread, slow (wrong: norm 0 was 1, must be 2)"


def test_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {(BOUND.file, BOUND.change, BOUND.code): "as good"}
    monkeypatch.setattr(mutation, "EQUIVALENT", listed)
    assert mutation.verdict(BARRIER, "thread") == ("caught", "thread", True)
    assert mutation.verdict(BARRIER, None) == ("SURVIVED", "", False)
    assert mutation.verdict(BOUND, None) == ("equivalent", "as good", True)
    assert mutation.verdict(BOUND, "thread") == ("NOT EQUIVALENT", "thread", False)


def executable(folder: Path, body: str) -> Path:
    program = folder / "program"
    program.write_text(f"#!{sys.executable}\n{body}\n")
    program.chmod(0o755)
    return program


def test_what_a_case_passes_is_measured(tmp_path: Path) -> None:
    program = executable(tmp_path, "print('7 runs of 1 cases')\nprint('passed mutants: 3 17')")
    assert mutation.Case.measured(program, "case").passes == {3, 17}
    program = executable(tmp_path, "print('passed mutants:')")
    assert mutation.Case.measured(program, "case").passes == set()
    program = executable(tmp_path, "print('passed mutants: 3')\nraise SystemExit(1)")
    with pytest.raises(mutation.OriginalFailsError, match="fails already"):
        mutation.Case.measured(program, "case")


def test_sources_with_mutants(tmp_path: Path) -> None:
    original, copy = tmp_path / "csrc", tmp_path / "copy"
    kernel, table = original / "cuda" / "kernel.cuh", original / "formulas" / "activation_table.h"
    for file in (kernel, table):
        file.parent.mkdir(parents=True)
    kernel.write_text(TEXT)
    table.write_text("using Activations = FormulaList<A, B, C, D, E,\n    F>;\n")
    assert mutation.write_sources(original, copy) == [BARRIER, BOUND]
    written = copy / "cuda" / "kernel.cuh"
    assert "mutant_is_alive(0)" in written.read_text()
    assert "FormulaList<A, B, C, D>" in (copy / "formulas" / "activation_table.h").read_text()

    date = written.stat().st_mtime_ns
    mutation.write_sources(original, copy)
    assert written.stat().st_mtime_ns == date
    kernel.unlink()
    assert mutation.write_sources(original, copy) == []
    assert not written.exists()


def test_the_table_of_activations_is_found() -> None:
    with pytest.raises(ValueError, match="to shorten"):
        with_few_activations("formulas/activation_table.h", "using Activations = List<A>;")


def test_runs_end(tmp_path: Path) -> None:
    program = executable(tmp_path, "import time\nprint('a case', flush=True)\ntime.sleep(60)")
    outcome = sanitizers.run(program, limit=1)
    assert not outcome.passed
    assert outcome.output.startswith("a case")
    assert outcome.output.endswith("not done after 1 seconds")


def test_every_equivalent_mutant_is_one() -> None:
    found = {(m.file, m.change, m.code) for m in find_mutants(sanitizers.CSRC)}
    assert not EQUIVALENT.keys() - found
