"""What becomes of a mutant, with stand-ins for the executables."""

from __future__ import annotations

import sys
from pathlib import Path

import mutation
import pytest
import sanitizers
from mutants import Mutant, mutants_of

TEXT = "__syncthreads();\nfor (int i = 0; i < n; i++) {}\n"
BARRIER, BOUND = mutants_of("cuda/kernel.cuh", TEXT)


class Lanes:
    """Executables of which those in `failing` fail; notes what was built, from which source."""

    def __init__(self, csrc: Path) -> None:
        self.file = csrc / "cuda" / "kernel.cuh"
        self.failing: dict[str, str] = {}
        self.built: list[tuple[str, str]] = []

    def build(self, sanitizer: str, csrc: Path, folder: Path) -> Path:
        self.built.append((sanitizer, self.file.read_text()))
        if self.failing.get(sanitizer) == "does not compile":
            raise RuntimeError("error")
        return Path(sanitizer)

    def run(self, executable: Path) -> sanitizers.Outcome:
        output = self.failing.get(executable.name)
        return sanitizers.Outcome(output is None, output or "", 1)


@pytest.fixture
def lanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lanes:
    lanes = Lanes(tmp_path)
    lanes.file.parent.mkdir()
    lanes.file.write_text(TEXT)
    monkeypatch.setattr(mutation, "build", lanes.build)
    monkeypatch.setattr(mutation, "run", lanes.run)
    return lanes


def test_a_survivor_has_passed_both(lanes: Lanes, tmp_path: Path) -> None:
    assert mutation.caught_by(BOUND, tmp_path) is None
    changed = BOUND.apply(TEXT)
    assert lanes.built == [("address", changed), ("thread", changed)]
    assert lanes.file.read_text() == TEXT


@pytest.mark.parametrize(
    ("mutant", "first"), [(BARRIER, "thread"), (BOUND, "address")], ids=["barrier", "bound"]
)
def test_the_likelier_one_comes_first(
    lanes: Lanes, tmp_path: Path, mutant: Mutant, first: str
) -> None:
    lanes.failing = dict.fromkeys(("thread", "address"), "a case\nSUMMARY: data race in f\nend")
    assert mutation.caught_by(mutant, tmp_path) == f"{first} (SUMMARY: data race in f)"
    assert len(lanes.built) == 1
    assert lanes.file.read_text() == TEXT


def test_the_second_may_catch_it(lanes: Lanes, tmp_path: Path) -> None:
    lanes.failing = {"thread": "wrong: norm 0 was 1, must be 2"}
    caught = mutation.caught_by(BOUND, tmp_path)
    assert caught == "thread (wrong: norm 0 was 1, must be 2)"


def test_what_does_not_compile_is_caught(lanes: Lanes, tmp_path: Path) -> None:
    lanes.failing = {"thread": "does not compile"}
    assert mutation.caught_by(BARRIER, tmp_path) == "the compiler"
    assert lanes.file.read_text() == TEXT


def test_runs_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(
        f"#!{sys.executable}\nimport time\nprint('a case', flush=True)\ntime.sleep(60)\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(sanitizers, "_TIMEOUT", 1)
    outcome = sanitizers.run(program)
    assert not outcome.passed
    assert outcome.output.startswith("a case")
    assert outcome.output.endswith("not done after 1 seconds")
