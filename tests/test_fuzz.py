"""Some of the random argument combinations of fuzz_arguments.py, which runs any number of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_arguments import Generator, run_case

BLOCK = 100


@pytest.mark.parametrize("first", range(0, 500, BLOCK))
def test_random_arguments(first: int) -> None:
    faults = [run_case(20_240_601, number) for number in range(first, first + BLOCK)]
    found = [fault for fault in faults if fault is not None]
    assert not found, "\n".join(found)


def test_a_case_follows_from_its_seed_alone() -> None:
    for number in range(20):
        one, other = Generator(3, number).case(), Generator(3, number).case()
        assert (one.function, one.arguments, one.must_raise) == (
            other.function,
            other.arguments,
            other.must_raise,
        )


def test_cases_reach_every_function_and_every_outcome() -> None:
    cases = [Generator(0, number).case() for number in range(500)]
    assert len({case.function for case in cases}) == 14
    assert {case.must_raise for case in cases} == {True, False, None}


def test_runs_as_a_script() -> None:
    script = Path(__file__).with_name("fuzz_arguments.py")
    done = subprocess.run(
        [sys.executable, str(script), "--count", "20", "--seed", "7"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("20 cases, 0 wrong\n")
