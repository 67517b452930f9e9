"""`make test-cuda` without a GPU: what it says then, and every step of it on stand-ins."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest
import run_on_gpu
import torch
import typer.testing

import gradkern

# The place of a suite with the fixture that tests/conftest.py has.
SUITE = """
import pytest

@pytest.fixture(params=["cpu", "cuda"])
def backend(request):
    return request.param

def test_kernel(backend):
    {body}
"""

# A program that notes how it was called, then runs the rest of its command line from a Python on.
FORWARD = """#!{python}
import os, subprocess, sys
with open({log!r}, "a") as log:
    caching = os.environ.get("PYTORCH_NO_CUDA_MEMORY_CACHING", "")
    print(*sys.argv[1:], "caching=" + caching, file=log)
command = sys.argv[1 + sys.argv[1:].index({python!r}):] if {python!r} in sys.argv else ["true"]
sys.exit(subprocess.run(command).returncode or {code})
"""

BENCHMARKS = """
import json, pathlib, sys
path = pathlib.Path(sys.argv[sys.argv.index("--json") + 1])
path.write_text(json.dumps({{"rows": [{{"device": "cpu"}}, {{"device": {device!r}}}]}}))
"""


class StandIn:
    """A machine with a GPU, as far as the script can tell."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.programs = directory / "bin"
        self.programs.mkdir()
        self.log = directory / "log"
        self.write_suite("pass")
        self.write_benchmarks("cuda")
        self.write_program("nvidia-smi")
        self.write_program("compute-sanitizer")
        self.setup = run_on_gpu.Setup(
            directory,
            ("test_kernels.py",),
            (sys.executable, str(directory / "benchmarks.py")),
            directory / "results",
        )
        monkeypatch.setenv("PATH", f"{self.programs}:/usr/bin:/bin")
        monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:cacheprovider")
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        info = {**gradkern.build_info(), "cuda": {"loaded": True, "architectures": ["90-real"]}}
        monkeypatch.setattr(gradkern, "build_info", lambda: info)

    def write_suite(self, body: str) -> None:
        (self.directory / "test_kernels.py").write_text(SUITE.format(body=body))

    def write_benchmarks(self, device: str) -> None:
        (self.directory / "benchmarks.py").write_text(BENCHMARKS.format(device=device))

    def write_program(self, name: str, code: int = 0) -> None:
        path = self.programs / name
        path.write_text(FORWARD.format(python=sys.executable, log=str(self.log), code=code))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(self, *steps: str) -> bool:
        """The steps whose first line of documentation has one of these words."""
        chosen = [s for s in run_on_gpu.STEPS if any(w in (s.__doc__ or "") for w in steps)]
        assert len(chosen) == len(steps)
        return run_on_gpu.run_steps(self.setup, chosen)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(tmp_path, monkeypatch)


class TestWithoutGpu:
    def test_every_step_says_what_it_lacks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if run_on_gpu.missing_kernels() is None:
            pytest.skip("a GPU is here: make test-cuda")
        monkeypatch.setenv("PATH", str(tmp_path))
        app = typer.Typer()
        app.command()(run_on_gpu.main)
        result = typer.testing.CliRunner().invoke(app, ["--results", str(tmp_path)])
        assert result.exit_code == 1
        reason = run_on_gpu.missing_kernels()
        sanitizer_reason = "compute-sanitizer is not on PATH: it belongs to the CUDA toolkit"
        summary = result.output.partition("Summary\n")[2].splitlines()
        assert summary == [
            "FAILED  The GPU that the driver shows: nvidia-smi is not on PATH: "
            "no NVIDIA driver is installed",
            f"FAILED  torch and gradkern can use it: {reason}",
            f'FAILED  The whole suite on the device "cuda": {reason}',
            *(
                f"FAILED  The kernel tests under compute-sanitizer's {tool}: {sanitizer_reason}"
                for tool in ("memcheck", "racecheck", "synccheck")
            ),
            f"FAILED  The benchmarks, with the GPU's rows: {reason}",
        ]

    def test_torch_without_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.version, "cuda", None)
        reason = run_on_gpu.missing_kernels()
        assert reason == f"torch {torch.__version__} is built without CUDA"

    def test_no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert run_on_gpu.missing_kernels() == "torch sees no GPU"

    def test_kernels_not_loaded(self, machine: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
        info = {"cuda": {"loaded": False, "reason": "they were not built"}}
        monkeypatch.setattr(gradkern, "build_info", lambda: info)
        reason = run_on_gpu.missing_kernels()
        assert reason == "gradkern's CUDA kernels are not loaded: they were not built"

    def test_the_tests_that_are_named_exist(self) -> None:
        for path in run_on_gpu.KERNEL_TESTS:
            assert "backend" in (run_on_gpu.ROOT / path).read_text()


class TestOnStandIn:
    def test_all_pass(self, machine: StandIn, capfd: pytest.CaptureFixture[str]) -> None:
        assert run_on_gpu.run_steps(machine.setup)
        output = capfd.readouterr().out
        assert "FAILED" not in output
        assert output.count("passed  ") == 7
        assert output.count("1 tests on the device cuda") == 4
        calls = machine.log.read_text().splitlines()
        assert calls[0] == "-L caching="
        for tool, call in zip(("memcheck", "racecheck", "synccheck"), calls[1:], strict=True):
            assert call.startswith(f"--tool {tool} --error-exitcode=99 --kernel-regex kns=gradkern")
            assert "-k [cuda" in call
            assert call.endswith("test_kernels.py caching=1")

    def test_driver_fails(self, machine: StandIn, capfd: pytest.CaptureFixture[str]) -> None:
        machine.write_program("nvidia-smi", code=9)
        assert not machine.run("driver")
        assert "nvidia-smi exited with 9" in capfd.readouterr().out

    def test_a_test_fails_on_the_gpu_only(
        self, machine: StandIn, capfd: pytest.CaptureFixture[str]
    ) -> None:
        machine.write_suite("assert backend == 'cpu'")
        assert not machine.run("whole suite")
        assert "exited with 1" in capfd.readouterr().out

    def test_a_skipped_test_is_a_failure(
        self, machine: StandIn, capfd: pytest.CaptureFixture[str]
    ) -> None:
        machine.write_suite("pytest.skip('no GPU')")
        assert not machine.run("whole suite")
        assert "1 of 1 tests were skipped, as test_kernel[cuda]" in capfd.readouterr().out

    def test_no_test_is_a_failure(
        self, machine: StandIn, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (machine.directory / "test_kernels.py").write_text("def test_kernel(): pass")
        assert not machine.run("whole suite")
        assert "exited with 5" in capfd.readouterr().out  # which is pytest's for no tests
        # pytest selects names without regard to case.
        (machine.directory / "test_kernels.py").write_text(
            "import pytest\n@pytest.mark.parametrize('x', ['CUDA'])\ndef test_kernel(x): pass"
        )
        assert not machine.run("whole suite")
        assert "no test ran on the device cuda" in capfd.readouterr().out

    def test_sanitizer_finds_something(
        self, machine: StandIn, capfd: pytest.CaptureFixture[str]
    ) -> None:
        machine.write_program("compute-sanitizer", code=99)
        assert not machine.run("racecheck", "benchmarks")
        output = capfd.readouterr().out
        assert "compute-sanitizer exited with 99" in output
        assert "passed  The benchmarks" in output

    def test_benchmarks_without_the_gpu(
        self, machine: StandIn, capfd: pytest.CaptureFixture[str]
    ) -> None:
        machine.write_benchmarks("cpu")
        assert not machine.run("benchmarks")
        assert "has no row of the GPU" in capfd.readouterr().out
