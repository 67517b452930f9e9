"""Runs every case of sanitized/ under ThreadSanitizer and under Address+UBSanitizer.

`python sanitizers.py [CASE...]` builds both executables, with a few of the activations, and runs
each case in a process of its own, as many of them side by side as there are cores.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from kernels import FUNCTION_CASES, KERNELS
from source_copies import with_few_activations, write_copy

SOURCE = Path(__file__).resolve().parent
ROOT = SOURCE.parents[1]
CSRC = ROOT / "csrc"
BUILD = ROOT / "build" / "sanitized"

CASES = (*FUNCTION_CASES, *(kernel.case for kernel in KERNELS))
SANITIZERS = ("thread", "address")
_LIMIT = 1800  # far beyond any run's minute or two, on whatever machine
_OPTIONS = {
    "TSAN_OPTIONS": "halt_on_error=1",
    # Leaks: the stacks of fibers are no roots. Stack use after return: a copy of every frame on the
    # heap for each of thousands of fibers, which makes clang's runtime ten times slower.
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    passed: bool
    output: str
    seconds: float

    def last_lines(self, count: int = 60) -> str:
        """The report, and the case that it belongs to."""
        return "\n".join(self.output.splitlines()[-count:])


@functools.cache
def compiler(sanitizer: str) -> str:
    """The compiler whose sanitizer is used.

    ThreadSanitizer: the first that sees a race among as many fibers as kernels have. That of GCC
    12 does. The runtime that clang has had since 14, and GCC since 13, numbers the threads that it
    tells apart with 8 bits: with 256 fibers to a block it has forgotten most of them, and says
    nothing. AddressSanitizer: clang, the newest there is, else g++.

    Raises:
        RuntimeError: if there is no such compiler.
    """
    gcc = [os.environ.get("CXX", "g++"), "g++", "g++-12", "g++-11", "g++-10"]
    clang = _clang_newest_first()
    candidates = [*gcc, *clang] if sanitizer == "thread" else [*clang, *gcc]
    for name in dict.fromkeys(candidates):
        if shutil.which(name) is None or not _links(name, sanitizer):
            continue
        if sanitizer != "thread" or _sees_races(name):
            return name
    raise RuntimeError(f"no compiler here has a {sanitizer} sanitizer that can be used; GCC 12 has")


def _clang_newest_first() -> list[str]:
    names = {
        file.name
        for folder in os.get_exec_path()
        if Path(folder).is_dir()
        for file in Path(folder).glob("clang++*")
        if re.fullmatch(r"clang\+\+(-\d+)?", file.name)
    }
    return sorted(names, key=lambda name: int(name.partition("-")[2] or 0), reverse=True)


def _links(name: str, sanitizer: str) -> bool:
    """Whether the compiler's runtime library is installed; distributions package it by itself."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "main.cpp")
        source.write_text("int main() {}\n")
        flags = ["-std=c++17", f"-fsanitize={sanitizer},undefined"]
        command = [name, *flags, source, "-o", Path(folder, "main")]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _sees_races(name: str) -> bool:
    """Whether the compiler's ThreadSanitizer reports the race of sanitized/canary."""
    canary = _build("thread", name, "canary", CSRC, BUILD)
    return "data race" in run(canary).output


def build(
    sanitizer: str, csrc: Path = CSRC, folder: Path = BUILD, *, mutation: bool = False
) -> Path:
    """Builds the executable of a sanitizer, from the kernels in `csrc`.

    Args:
        mutation: whether there are mutants in them.

    Raises:
        RuntimeError: with the compiler's output, if the build fails.
    """
    name = compiler(sanitizer)
    options = (f"-DMUTATION={'ON' if mutation else 'OFF'}",)
    return _build(sanitizer, name, "gradkern_sanitized", csrc, folder, options)


def _build(
    sanitizer: str, name: str, target: str, csrc: Path, folder: Path, options: Sequence[str] = ()
) -> Path:
    objects = folder / f"{sanitizer}-{name}"
    beside_python = Path(sys.executable).parent
    cmake = shutil.which("cmake", path=beside_python) or "cmake"
    ninja = shutil.which("ninja", path=beside_python) or "ninja"
    for command in (
        [
            *(cmake, "-S", SOURCE / "sanitized", "-B", objects, "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={ninja}",
            f"-DPython3_EXECUTABLE={sys.executable}",
            f"-DCMAKE_CXX_COMPILER={name}",
            f"-DSANITIZER={sanitizer}",
            f"-DCSRC={csrc}",
            *options,
        ],
        [cmake, "--build", objects, "--target", target],
    ):
        result = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if result.returncode != 0:
            raise RuntimeError(result.stdout)
    return objects / target


def run(
    executable: Path,
    cases: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    limit: float = _LIMIT,
) -> Outcome:
    """Runs the cases, or all. A run that does not end within `limit` seconds has failed."""
    start = time.monotonic()
    with subprocess.Popen(
        [*_fixed_addresses(), executable, *cases],
        env={**os.environ, **_OPTIONS, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            output = f"{process.communicate()[0]}\nwrong: not done after {limit:.0f} seconds"
    return Outcome(process.returncode == 0, output, time.monotonic() - start)


@functools.cache
def _fixed_addresses() -> tuple[str, ...]:
    """GCC 12's TSan does not start where Linux spreads mappings over more than 28 bits."""
    prefix = ("setarch", "-R")
    try:
        usable = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return ()
    return prefix if usable else ()


def main(cases: Sequence[str]) -> int:
    """All cases under both sanitizers; 0 if neither has anything to report."""
    start = time.monotonic()
    csrc = BUILD / "csrc"
    write_copy(CSRC, csrc, with_few_activations)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        executables = list(pool.map(lambda sanitizer: build(sanitizer, csrc), SANITIZERS))
        built = time.monotonic() - start
        jobs = [(executable, case) for case in cases or CASES for executable in executables]
        outcomes = list(pool.map(lambda job: run(job[0], [job[1]]), jobs))
    passed = True
    for sanitizer, executable in zip(SANITIZERS, executables, strict=True):
        of_this = [o for o, job in zip(outcomes, jobs, strict=True) if job[0] == executable]
        failed = [outcome for outcome in of_this if not outcome.passed]
        for outcome in failed:
            print(f"FAILED\n{outcome.last_lines()}")
        print(
            f"{sanitizer} sanitizer of {compiler(sanitizer)}: {len(of_this) - len(failed)} of "
            f"{len(of_this)} cases passed, in {sum(o.seconds for o in of_this):.0f} s"
        )
        passed &= not failed
    total = time.monotonic() - start
    print(f"{built:.0f} s to build, {total - built:.0f} s to run")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
