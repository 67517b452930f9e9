"""The CUDA backend's launch planning, on sizes alone, compiled with the host compiler."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

SOURCE = Path(__file__).resolve().parent
CSRC = SOURCE.parents[1] / "csrc"
BUILD = SOURCE.parents[1] / "build" / "launch_plan"

# csrc/backend.h and csrc/cuda/launch_plan.h, table.cuh
ELEMENT_BYTES = {0: 4, 1: 8, 2: 2, 3: 2, 4: 8, 5: 16}  # by DType
FLOAT32, FLOAT64, BFLOAT16, FLOAT16, COMPLEX64, COMPLEX128 = ELEMENT_BYTES
SPAN = np.dtype(
    [("data", "u8"), ("numel", "i8"), ("segment", "i8"), ("dtype", "i4"), ("unused", "i4")]
)
LAUNCH = np.dtype(
    [
        ("first_tensor", "i8"),
        ("tensors", "i4"),
        ("unused", "i4"),
        ("first_unit", "i8"),
        ("blocks", "i8"),
        ("first_block", "i8"),
    ]
)
ENTRY = np.dtype(
    [("data", "u8"), ("numel", "i8"), ("segment", "i8"), ("first_block", "u4"), ("dtype", "i4")]
)
PIECE = np.dtype(
    [
        ("tensor", "i4"),
        ("dtype", "i4"),
        ("data", "u8"),
        ("size", "i8"),
        ("chunk", "i8"),
        ("chunks", "i8"),
        ("numel", "i8"),
    ]
)

Array = NDArray[Any]


class Limits(ctypes.Structure):
    """LaunchLimits."""

    _fields_ = (
        ("chunk", ctypes.c_int64),
        ("tensors", ctypes.c_int32),
        ("blocks", ctypes.c_int64),
    )


class ChannelSizes(ctypes.Structure):
    """ChannelSizes."""

    _fields_ = (
        ("outer", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("inner", ctypes.c_int64),
    )


@functools.cache
def library() -> ctypes.CDLL:
    """The library, built if a source is newer."""
    built = BUILD / "liblaunch_plan.so"
    planners = ("launch_plan.cpp", "channel_plan.cpp", "batch_norm_plan.cpp")
    sources = [SOURCE / "plan_driver.cpp", *(CSRC / "cuda" / name for name in planners)]
    headers = [*CSRC.glob("*.h"), *(CSRC / "cuda").glob("*.h"), CSRC / "cuda" / "table.cuh"]
    BUILD.mkdir(parents=True, exist_ok=True)
    with FileLock(BUILD / "lock"):
        newest = max(
            path.stat().st_mtime
            for path in [*sources, *headers, *(SOURCE / "block_index").iterdir()]
        )
        if not built.exists() or built.stat().st_mtime < newest:
            _compile(sources, built)
    functions = ctypes.CDLL(os.fspath(built))
    functions.default_limits.restype = Limits
    for name in ("plan_allocated", "plan_blocks", "plan_chunk", "plan_launch_count"):
        getattr(functions, name).restype = ctypes.c_int64
    functions.plan_by_segment.restype = ctypes.c_bool
    functions.batch_norm_is_held.restype = ctypes.c_bool
    functions.make_plan.restype = ctypes.c_void_p
    return functions


def _compile(sources: Sequence[Path], built: Path) -> None:
    compiler = os.environ.get("CXX") or shutil.which("c++") or "g++"
    scratch = built.with_name(f"{built.name}.{os.getpid()}")
    result = subprocess.run(
        [
            *(*compiler.split(), "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC"),
            *("-shared", "-ftrapv", f"-I{CSRC}", f"-I{SOURCE / 'block_index'}"),
            # So that the allocations of this library are counted, and of no other.
            *("-Wl,-Bsymbolic", "-o", os.fspath(scratch), *map(os.fspath, sources)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise RuntimeError(f"the launch planning can't be compiled:\n{result.stdout}")
    scratch.rename(built)


def default_limits() -> Limits:
    """Those in force where no test lowers them."""
    limits: Limits = library().default_limits()
    return limits


def make_spans(
    sizes: Sequence[int], dtype: int = FLOAT32, segments: Sequence[int] | None = None
) -> Array:
    """Tensors one after the other in memory that does not exist.

    Args:
        sizes: of the tensors, in elements.
        dtype: of all of them.
        segments: elements in a segment of each; the whole tensor if not given.
    """
    spans = np.zeros(len(sizes), SPAN)
    spans["numel"] = sizes
    spans["segment"] = sizes if segments is None else segments
    spans["dtype"] = dtype
    rounded = -(-np.asarray(sizes, np.int64) * ELEMENT_BYTES[dtype] // 16) * 16
    spans["data"] = (1 << 20) + np.concatenate([[0], np.cumsum(rounded)[:-1]])
    return spans


class Plan:
    """A LaunchPlan.

    Args:
        spans: from `make_spans`.
        limits: the default ones if not given.
    """

    def __init__(self, spans: Array, limits: Limits | None = None) -> None:
        self.spans = spans
        self.limits = limits or default_limits()
        functions = library()
        self._made = ctypes.c_void_p(
            functions.make_plan(_address(spans), ctypes.c_int64(len(spans)), self.limits)
        )
        weakref.finalize(self, functions.free_plan, self._made)
        self.blocks: int = functions.plan_blocks(self._made)
        self.chunk: int = functions.plan_chunk(self._made)
        self.by_segment: bool = functions.plan_by_segment(self._made)
        self.allocated: int = functions.plan_allocated(self._made)
        self.launches = np.zeros(functions.plan_launch_count(self._made), LAUNCH)
        functions.plan_launches(self._made, _address(self.launches))

    def table(self, launch: int) -> Array:
        """The table of one launch."""
        table = np.zeros(self.launches[launch]["tensors"], ENTRY)
        library().fill_table(
            self._made,
            _address(self.spans),
            ctypes.c_int64(len(self.spans)),
            ctypes.c_int64(launch),
            _address(table),
        )
        return table

    def pieces(self, launch: int, first_block: int = 0, blocks: int | None = None) -> Array:
        """What the blocks of one launch work on, or `blocks` of them from `first_block` on."""
        planned = self.launches[launch]
        table = self.table(launch)
        return find_pieces(
            table,
            self.chunk,
            int(planned["first_unit"]),
            first_block,
            int(planned["blocks"]) - first_block if blocks is None else blocks,
        )


def find_pieces(table: Array, chunk: int, first_unit: int, first_block: int, blocks: int) -> Array:
    """What the kernels' own find_piece says to `blocks` blocks from `first_block` on."""
    pieces = np.zeros(blocks, PIECE)
    library().find_pieces(
        _address(table),
        ctypes.c_int(len(table)),
        ctypes.c_int64(chunk),
        ctypes.c_int64(first_unit),
        ctypes.c_uint32(first_block),
        ctypes.c_int64(blocks),
        _address(pieces),
    )
    return pieces


def workspace_layout(tensors: int, blocks: int, fields: int) -> dict[str, int]:
    """The offsets of WorkspaceLayout, and its size."""
    offsets = np.zeros(4, np.uint64)
    library().workspace_layout(
        ctypes.c_int64(tensors), ctypes.c_int64(blocks), ctypes.c_int(fields), _address(offsets)
    )
    return dict(zip(("table", "partials", "counters", "bytes"), map(int, offsets), strict=True))


class ChannelPlan(NamedTuple):
    """A ChannelPlan, and the ChannelWorkspace of `fields` numbers."""

    tiles: int
    chunks: int
    chunk: int
    across: int
    units: int
    counters: int
    workspace: int


def channel_plan(
    sizes: tuple[int, int, int],
    dtype: int = FLOAT32,
    limits: Limits | None = None,
    fields: int = 3,
) -> ChannelPlan:
    """Of outer * channels * inner elements."""
    numbers = np.zeros(len(ChannelPlan._fields), np.int64)
    library().channel_plan(
        ChannelSizes(*sizes),
        ctypes.c_int(dtype),
        limits or default_limits(),
        ctypes.c_int(fields),
        _address(numbers),
    )
    return ChannelPlan(*map(int, numbers))


def batch_norm_is_held(
    sizes: tuple[int, int, int], dtype: int = FLOAT32, *, backward: bool = False
) -> bool:
    """Whether a block keeps its channel in shared memory; the backward pass reads three inputs."""
    held: bool = library().batch_norm_is_held(
        ChannelSizes(*sizes), ctypes.c_int(dtype), default_limits(), ctypes.c_bool(backward)
    )
    return held


def _address(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
