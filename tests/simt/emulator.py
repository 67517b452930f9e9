"""Builds the libraries in which CUDA kernels run on the CPU, and sets how they are scheduled."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import enum
import functools
import mmap
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock

SOURCE = Path(__file__).resolve().parent
BUILD = SOURCE.parents[1] / "build" / "simt"


class Policy(enum.IntEnum):
    """Which of the threads that can run does so next."""

    IN_ORDER = 0  # the lowest, as far as it gets
    REVERSE = 1  # the highest, as far as it gets
    RANDOM = 2  # any
    SPRINT = 3  # warps have random priorities: one runs far ahead of the others


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What the engine has counted since it was loaded, or since ``reset_statistics``."""

    launches: int
    blocks: int
    switches: int  # from one thread to another
    barriers: int
    warp_operations: int  # each lane's part in a shuffle, vote or __syncwarp
    atomics: int
    shared_bytes: int  # the most that any block had


@dataclasses.dataclass(frozen=True)
class _Configuration:
    policy: Policy = Policy.IN_ORDER
    seed: int = 1
    resident_blocks: int = 4


class Emulator:
    """A library with CUDA kernels and the engine that runs them, loaded into this process.

    Args:
        library: what `build` returned.
    """

    def __init__(self, library: Path) -> None:
        self.library = library
        self.functions = ctypes.CDLL(os.fspath(library))
        self.functions.simt_configure.argtypes = [ctypes.c_int, ctypes.c_uint64, ctypes.c_uint]
        self._configuration = _Configuration()

    @contextlib.contextmanager
    def configure(
        self, policy: Policy = Policy.IN_ORDER, seed: int = 1, resident_blocks: int = 4
    ) -> Iterator[None]:
        """Sets how the launches within are scheduled.

        Args:
            policy: which thread runs next.
            seed: equal seeds give equal schedules. Launch after launch differs, but not from the
                same launch after the same `configure`.
            resident_blocks: how many blocks run interleaved; 0: as many as the engine has stacks
                for (16,384 threads).
        """
        outer = self._configuration
        self._apply(_Configuration(policy, seed, resident_blocks))
        try:
            yield
        finally:
            self._apply(outer)

    def _apply(self, configuration: _Configuration) -> None:
        status = self.functions.simt_configure(*dataclasses.astuple(configuration))
        if status != 0:
            raise ValueError(f"policy was {configuration.policy!r}, must be a Policy")
        self._configuration = configuration

    def statistics(self) -> Statistics:
        """The counters."""
        counters = (ctypes.c_uint64 * len(dataclasses.fields(Statistics)))()
        self.functions.simt_statistics(counters)
        return Statistics(*counters)

    def reset_statistics(self) -> None:
        """Sets all counters to 0."""
        self.functions.simt_reset_statistics()


@functools.cache
def load(target: str = "gradkern_simt") -> Emulator:
    """The library `target` of CMakeLists.txt, built first if its sources have changed."""
    return Emulator(build(target))


@functools.cache
def build(target: str) -> Path:
    """Builds `target` and returns the library.

    The first of several processes builds, the others wait for it and then find nothing to do.

    Raises:
        RuntimeError: with the compiler's output, if the build fails.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    configure = [
        _tool("cmake"),
        *("-S", os.fspath(SOURCE)),
        *("-B", os.fspath(BUILD)),
        *("-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}",
        f"-DPython3_EXECUTABLE={sys.executable}",  # whose wheels may hold the CUDA headers
    ]
    with FileLock(BUILD / "lock"):
        try:
            _run(configure)
        except RuntimeError:
            # The cache remembers a compiler or a CMake that is gone.
            _run([*configure, "--fresh"])
        _run([_tool("cmake"), "--build", os.fspath(BUILD), "--target", target])
    return BUILD / f"lib{target}.so"


def _tool(name: str) -> str:
    """The program of that name: the environment's own, for which PATH need not be set."""
    beside_python = os.fspath(Path(sys.executable).parent)
    path = shutil.which(name, path=beside_python) or shutil.which(name)
    if path is None:
        raise RuntimeError(f"{name} is needed to build the CUDA emulation: pip install {name}")
    return path


def _run(command: list[str]) -> None:
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stdout}")


_PADDING = 0xFF  # NaN in every floating-point type
_VECTOR = 16  # bytes of the widest load or store of a GPU


def guarded_tensor(values: torch.Tensor, *, aligned: bool | None = None) -> torch.Tensor:
    """A contiguous copy of `values` at the end of readable memory.

    The page behind it can be neither read nor written: whoever goes beyond the end in a kernel gets
    an error, and anyone else a segmentation fault. The bytes around it, as far as there are any,
    are 0xff (see `padding_is_intact`).

    Args:
        values: a CPU tensor of any dtype and shape.
        aligned: None: the last byte touches the unreadable page, whatever that makes of the start.
            True: the start is 16-byte aligned, which leaves up to 15 bytes behind the end. False:
            the start is not 16-byte aligned (but aligned to an element), which leaves nothing
            behind the end, or one element.

    Raises:
        ValueError: if `aligned` is False and every element fills a multiple of 16 bytes.
    """
    if values.numel() == 0:
        return torch.empty(values.shape, dtype=values.dtype)  # whose pointer is null
    nbytes = values.numel() * values.element_size()
    behind = 0
    if aligned is True:
        behind = -nbytes % _VECTOR
    elif aligned is False and nbytes % _VECTOR == 0:
        behind = values.element_size()
        if behind % _VECTOR == 0:
            raise ValueError(
                f"aligned was False for elements of {behind} bytes, must be True or None"
            )

    page = mmap.PAGESIZE
    readable = -(-(nbytes + behind) // page) * page
    memory = mmap.mmap(-1, readable + page)
    memory.write(bytes([_PADDING]) * readable)
    start = readable - behind - nbytes
    tensor = torch.frombuffer(memory, dtype=values.dtype, count=values.numel(), offset=start)
    tensor = tensor.view(values.shape).copy_(values)
    _protect(tensor.data_ptr() + nbytes + behind, page)
    return tensor  # whose storage holds on to `memory`


def padding_is_intact(tensor: torch.Tensor) -> bool:
    """Whether nobody has written the bytes around a tensor from `guarded_tensor`, in its pages."""
    start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size()
    page = mmap.PAGESIZE
    around = ctypes.string_at(start - start % page, start % page) + ctypes.string_at(
        end, -end % page
    )
    return around.count(_PADDING) == len(around)


def _protect(address: int, size: int) -> None:
    prot_none = 0
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), prot_none) != 0:
        raise OSError(ctypes.get_errno(), "mprotect failed")
