"""Everything that a machine with a GPU can say about gradkern, in one run (`make test-cuda`).

The tests on the device "cuda", the kernel tests under compute-sanitizer, then the benchmarks. A
step that can't run says what it lacks; the others run all the same. Exits with 0 only if every step
ran and passed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

import gradkern

ROOT = Path(__file__).resolve().parents[2]

# Tests with the parameter "cuda" of the fixture `backend` (tests/conftest.py).
ON_CUDA = "[cuda"

# What launches every kernel, on small tensors: under the sanitizer one is tens of times slower.
KERNEL_TESTS = (
    "tests/test_get_total_norm.py",
    "tests/test_tensor_stats.py",
    "tests/test_clip_semantics.py",
    "tests/test_clip_variants.py",
)
SANITIZERS = ("memcheck", "racecheck", "synccheck")
_FOUND = 99  # how compute-sanitizer exits if it has something to report


class StepError(Exception):
    """Why a step has failed, or what it lacks to run."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is run, and from where.

    Attributes:
        directory: where pytest and the benchmarks are started.
        kernel_tests: the arguments of pytest under compute-sanitizer.
        benchmarks: the command that takes ``--json FILE``.
        results: where reports and figures go.
    """

    directory: Path
    kernel_tests: tuple[str, ...]
    benchmarks: tuple[str, ...]
    results: Path


def driver(_: Setup) -> None:
    """The GPU that the driver shows."""
    _run([_program("nvidia-smi", "no NVIDIA driver is installed"), "-L"], ROOT)


def kernels(_: Setup) -> None:
    """torch and gradkern can use it."""
    _require_kernels()
    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}")
    print(f"gradkern's kernels for {', '.join(gradkern.build_info()['cuda']['architectures'])}")


def tests(setup: Setup) -> None:
    """The whole suite on the device "cuda"."""
    _require_kernels()
    _run_tests(setup, [], "tests", [], {})


def sanitizer(tool: str) -> Callable[[Setup], None]:
    """The kernel tests under one tool of compute-sanitizer."""

    def step(setup: Setup) -> None:
        program = _program("compute-sanitizer", "it belongs to the CUDA toolkit")
        _require_kernels()
        command = [
            *(program, "--tool", tool, f"--error-exitcode={_FOUND}"),
            # torch's own kernels, and calls whose errors it expects, are not ours to judge.
            *("--kernel-regex", "kns=gradkern", "--report-api-errors", "no"),
        ]
        # Tensors in allocations of their own: else torch's cache hides what is out of bounds.
        environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        _run_tests(setup, command, tool, setup.kernel_tests, environment)

    step.__doc__ = f"The kernel tests under compute-sanitizer's {tool}."
    return step


def benchmarks(setup: Setup) -> None:
    """The benchmarks, with the GPU's rows."""
    _require_kernels()
    figures = setup.results / "benchmarks.json"
    figures.unlink(missing_ok=True)
    _run([*setup.benchmarks, "--json", str(figures)], setup.directory)
    rows = json.loads(figures.read_text())["rows"]
    if not any(row["device"] == "cuda" for row in rows):
        raise StepError(f"{figures} has no row of the GPU")


STEPS: tuple[Callable[[Setup], None], ...] = (
    driver,
    kernels,
    tests,
    *map(sanitizer, SANITIZERS),
    benchmarks,
)


def run_steps(setup: Setup, steps: Sequence[Callable[[Setup], None]] = STEPS) -> bool:
    """Runs every step, whatever became of those before.

    Returns:
        Whether all of them passed.
    """
    setup.results.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for step in steps:
        what = (step.__doc__ or "").splitlines()[0].rstrip(".")
        print(f"\n==== {what}", flush=True)
        try:
            step(setup)
            outcomes.append((what, ""))
        except StepError as error:
            print(f"failed: {error}", flush=True)
            outcomes.append((what, f": {error}"))
    print("\n==== Summary")
    for what, problem in outcomes:
        print(f"{'FAILED' if problem else 'passed'}  {what}{problem}")
    return not any(problem for _, problem in outcomes)


def missing_kernels() -> str | None:
    """Why no kernel of gradkern can run on a GPU from here; None if it can."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    info = gradkern.build_info()["cuda"]
    return None if info["loaded"] else f"gradkern's CUDA kernels are not loaded: {info['reason']}"


def _require_kernels() -> None:
    reason = missing_kernels()
    if reason is not None:
        raise StepError(reason)


def _program(name: str, why_not: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise StepError(f"{name} is not on PATH: {why_not}")
    return path


def _run_tests(
    setup: Setup,
    under: Sequence[str],
    name: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
) -> None:
    """Runs pytest on the device "cuda". No test at all, or one that was skipped, is a failure."""
    report = setup.results / f"{name}.xml"
    report.unlink(missing_ok=True)
    pytest = [sys.executable, "-m", "pytest", "-k", ON_CUDA, f"--junitxml={report}"]
    _run([*under, *pytest, *arguments], setup.directory, environment)
    cases = [
        case
        for case in xml.etree.ElementTree.parse(report).iter("testcase")
        if ON_CUDA in case.attrib["name"]
    ]
    skipped = [case.attrib["name"] for case in cases if case.find("skipped") is not None]
    if not cases:
        raise StepError("no test ran on the device cuda")
    if skipped:
        raise StepError(f"{len(skipped)} of {len(cases)} tests were skipped, as {skipped[0]}")
    print(f"{len(cases)} tests on the device cuda")


def _run(
    command: Sequence[str], directory: Path, environment: Mapping[str, str] | None = None
) -> None:
    print("$", " ".join(command), flush=True)
    code = subprocess.run(
        command, cwd=directory, env={**os.environ, **(environment or {})}, check=False
    ).returncode
    if code != 0:
        raise StepError(f"{Path(command[0]).name} exited with {code}")


def main(
    results: Annotated[Path, typer.Option(help="Where reports and figures go.")] = ROOT
    / "build"
    / "gpu_run",
) -> None:
    """Tests, compute-sanitizer and benchmarks on this machine's GPU."""
    setup = Setup(ROOT, KERNEL_TESTS, (sys.executable, "-m", "benchmarks"), results.resolve())
    if not run_steps(setup):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
