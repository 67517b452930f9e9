"""Where the kernels under test run: the CPU, the CUDA kernels' source on the CPU, or a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ctypes import c_int32, c_int64

import pytest
import torch
from kernel_backend import KernelBackend

import gradkern
from gradkern import _core

# One thread for each of pytest's workers; tests of several threads ask for them.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture(params=["cpu", "simt", "cuda"])
def backend(request: pytest.FixtureRequest) -> Iterator[KernelBackend]:
    """Each test that takes this runs on every backend there is.

    "simt": the source of the CUDA kernels, their launchers and their planning, compiled for the
    host and run with one fiber for each CUDA thread; CPU tensors are served by it through the same
    operators.
    """
    name: str = request.param
    if name == "cuda":
        info = gradkern.build_info()["cuda"]
        if not torch.cuda.is_available():
            pytest.skip("torch sees no GPU")
        if not info["loaded"]:
            pytest.fail(f"a GPU is here, and gradkern's CUDA kernels are not: {info['reason']}")
        yield KernelBackend(name, torch.device("cuda"))
        return
    if name == "cpu":
        yield KernelBackend(name, torch.device("cpu"))
        return
    request.getfixturevalue("simt_library")
    from simt import emulator

    functions = emulator.load().functions
    # So that tensors of a few thousand elements have several chunks, and lists several launches.
    functions.simt_limit_launches(c_int64(512), c_int32(100), c_int64(1000))
    _core.serve_cpu_with("simt")
    try:
        yield KernelBackend(name, torch.device("cpu"))
    finally:
        _core.serve_cpu_with("cpu")
        functions.simt_restore_launch_limits()


@pytest.fixture(scope="session")
def simt_library() -> None:
    """The CUDA backend compiled for the host, loaded under the name "simt"."""
    from simt import emulator

    reason = _core.load_backend("simt", str(emulator.load().library))
    if reason:
        pytest.fail(f"the host build of the CUDA kernels can't be loaded: {reason}")


@pytest.fixture
def nothing_compiled_before() -> Iterator[None]:
    """With Dynamo's caches empty, and left so: recompilations are counted over all tests."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
