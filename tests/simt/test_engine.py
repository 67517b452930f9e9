"""Tests of the engine itself, with the sample kernels of selftest/.

For everything that the engine detects there is a kernel that does it, and a twin that does not and
passes: a detection that stopped working, or that reported correct kernels, fails here.
"""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from simt.emulator import (
    BUILD,
    SOURCE,
    Emulator,
    Policy,
    guarded_tensor,
    load,
    padding_is_intact,
)

ALL_LANES = 0xFFFFFFFF
RANDOM_POLICIES = [Policy.RANDOM, Policy.SPRINT]


class KernelError(Exception):
    """A simt::Error."""

    def __init__(self, functions: ctypes.CDLL) -> None:
        functions.selftest_error.restype = ctypes.c_char_p
        functions.selftest_error_place.restype = ctypes.POINTER(ctypes.c_int * 5)
        super().__init__(functions.selftest_error().decode())
        place = list(functions.selftest_error_place().contents)
        self.block, self.thread, self.line = tuple(place[:3]), place[3], place[4]


@dataclasses.dataclass(frozen=True)
class Kernels:
    """The sample kernels."""

    engine: Emulator

    def run(self, name: str, *arguments: Any) -> None:
        """Launches selftest_`name`; tensors are passed as pointers."""
        passed = [
            ctypes.c_void_p(a.data_ptr()) if isinstance(a, torch.Tensor) else a for a in arguments
        ]
        if getattr(self.engine.functions, f"selftest_{name}")(*passed) != 0:
            raise KernelError(self.engine.functions)


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return Kernels(load("engine_selftest"))


@pytest.fixture(params=list(Policy), ids=lambda policy: policy.name.lower())
def policy(request: pytest.FixtureRequest, kernels: Kernels) -> Iterator[Policy]:
    with kernels.engine.configure(request.param, 7):
        yield request.param


@pytest.fixture(params=[1, 3, 0], ids=lambda blocks: f"{blocks or 'all'}-resident")
def resident_blocks(
    request: pytest.FixtureRequest, kernels: Kernels, policy: Policy
) -> Iterator[int]:
    with kernels.engine.configure(policy, 7, request.param):
        yield request.param


def line_of(text: str, file: str, nth: int = 0) -> int:
    """The number of the nth line of a sample's source that contains `text`."""
    lines = (SOURCE / "selftest" / file).read_text().splitlines()
    return [number for number, line in enumerate(lines, 1) if text in line][nth]


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """For results: what a kernel fails to write stays NaN, or -1."""
    return torch.full(shape, math.nan if dtype.is_floating_point else -1, dtype=dtype)


# --- Schedules -----------------------------------------------------------------------------------


def trace(kernels: Kernels, blocks: int = 4, threads: int = 40) -> list[int]:
    """The threads of a grid in the order in which they ran."""
    order = poisoned(blocks * threads, dtype=torch.int32)
    kernels.run("trace", blocks, threads, int32(0), order)
    return order.tolist()


@pytest.mark.parametrize("resident_blocks", [1, 2, 0])
def test_the_ordered_policies_run_threads_in_order(kernels: Kernels, resident_blocks: int) -> None:
    with kernels.engine.configure(Policy.IN_ORDER, 1, resident_blocks):
        assert trace(kernels) == list(range(160))
    with kernels.engine.configure(Policy.REVERSE, 1, resident_blocks):
        assert trace(kernels) == list(reversed(range(160)))


@pytest.mark.parametrize("policy", RANDOM_POLICIES)
def test_a_seed_determines_the_schedules_that_follow(kernels: Kernels, policy: Policy) -> None:
    def two_traces(seed: int) -> list[list[int]]:
        with kernels.engine.configure(policy, seed):
            return [trace(kernels), trace(kernels)]

    first, second = two_traces(seed=5)
    assert sorted(first) == sorted(second) == list(range(160))
    assert first != second
    assert two_traces(seed=5) == [first, second]
    assert two_traces(seed=6)[0] not in (first, second)


def test_sprinting_warps_run_far_ahead(kernels: Kernels) -> None:
    def warps_in_a_row(policy: Policy) -> int:
        with kernels.engine.configure(policy, 3, 1):
            order = trace(kernels, blocks=1, threads=1024)
        return len(list(itertools.groupby(thread // 32 for thread in order)))

    assert 32 <= warps_in_a_row(Policy.SPRINT) < 512 < warps_in_a_row(Policy.RANDOM)


def test_only_resident_blocks_are_interleaved(kernels: Kernels) -> None:
    def blocks_in_a_row(resident_blocks: int) -> int:
        with kernels.engine.configure(Policy.RANDOM, 3, resident_blocks):
            return len(list(itertools.groupby(thread // 40 for thread in trace(kernels))))

    assert blocks_in_a_row(1) == 4
    assert blocks_in_a_row(0) > 40


def test_a_configuration_ends_with_its_block(kernels: Kernels) -> None:
    with kernels.engine.configure(Policy.REVERSE):
        with kernels.engine.configure(Policy.IN_ORDER):
            assert trace(kernels)[0] == 0
        assert trace(kernels)[0] == 159
    assert trace(kernels)[0] == 0


def test_a_policy_that_does_not_exist_is_refused(kernels: Kernels) -> None:
    no_policy: Any = 4
    with pytest.raises(ValueError, match="policy was 4"), kernels.engine.configure(no_policy):
        pass


def test_a_grid_larger_than_the_engine_has_stacks_for(kernels: Kernels) -> None:
    with kernels.engine.configure(Policy.RANDOM, 1, 0):
        assert sorted(trace(kernels, blocks=40, threads=1000)) == list(range(40_000))


@pytest.mark.parametrize(
    ("grid", "block"),
    [
        ((2, 3, 4), (1, 1, 1)),
        ((1, 1, 1), (5, 3, 7)),
        ((2, 2, 1), (33, 1, 2)),
        ((1, 1, 1), (1024, 1, 1)),
    ],
)
@pytest.mark.usefixtures("policy")
def test_coordinates(
    kernels: Kernels, grid: tuple[int, int, int], block: tuple[int, int, int]
) -> None:
    out = poisoned(math.prod(grid) * math.prod(block), 7, dtype=torch.int32)
    kernels.run("coordinates", int32(*grid), int32(*block), out)
    blocks = itertools.product(*(range(extent) for extent in reversed(grid)))
    threads = list(itertools.product(*(range(extent) for extent in reversed(block))))
    assert out.tolist() == [
        [*reversed(b), *reversed(t), linear % 32]
        for b in blocks
        for linear, t in enumerate(threads)
    ]


def test_threads_of_python_launch_one_after_the_other(kernels: Kernels) -> None:
    start = threading.Barrier(4)
    orders: list[list[int]] = []

    def launch_repeatedly() -> None:
        start.wait()
        orders.extend(trace(kernels, 20, 500) for _ in range(10))

    workers = [threading.Thread(target=launch_repeatedly) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert orders == [list(range(10_000))] * 40


def test_statistics(kernels: Kernels) -> None:
    kernels.engine.reset_statistics()
    kernels.run("two_sums", 0, torch.ones(192), torch.ones(192), 3, 64, poisoned(3, 2))
    after_one = kernels.engine.statistics()
    assert (after_one.launches, after_one.blocks) == (1, 3)
    assert after_one.barriers == 3 * 4
    assert after_one.warp_operations == 3 * 2 * 5 * (64 + 32)
    assert after_one.atomics == 0
    assert after_one.shared_bytes == 128
    assert after_one.switches > 3 * 64
    trace(kernels)
    after_two = kernels.engine.statistics()
    assert (after_two.launches, after_two.atomics) == (2, 160)
    kernels.engine.reset_statistics()
    assert kernels.engine.statistics().launches == 0


# --- Correct kernels pass under every schedule; races show under some ----------------------------


def sums_differ(kernels: Kernels, missing: int) -> bool:
    a, b = torch.arange(768).float(), torch.arange(768).float().flip(0) * 2
    sums = poisoned(3, 2)
    kernels.run("two_sums", missing, a, b, 3, 256, sums)
    return not torch.equal(sums, torch.stack([a.view(3, 256).sum(1), b.view(3, 256).sum(1)], 1))


@pytest.mark.usefixtures("resident_blocks")
def test_a_correct_reduction(kernels: Kernels) -> None:
    assert not any(sums_differ(kernels, missing=0) for _ in range(5))


def races(kernels: Kernels, missing: int, policy: Policy) -> int:
    """Under how many of ten seeds the result is wrong."""
    wrong = 0
    for seed in range(10):
        with kernels.engine.configure(policy, seed):
            wrong += sums_differ(kernels, missing)
    return wrong


def test_sprint_finds_the_reuse_of_a_buffer_that_is_still_read(kernels: Kernels) -> None:
    assert races(kernels, 1, Policy.IN_ORDER) == 0, "in order the race never happens"
    assert races(kernels, 1, Policy.SPRINT) >= 5


@pytest.mark.parametrize("policy", RANDOM_POLICIES)
def test_random_schedules_find_a_read_before_the_write(kernels: Kernels, policy: Policy) -> None:
    assert races(kernels, 2, policy) == 10


@pytest.mark.usefixtures("resident_blocks")
@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_the_last_block_finishes_the_work_of_all(kernels: Kernels, blocks: int) -> None:
    x = torch.randn(5003, generator=torch.Generator().manual_seed(0))
    ticket = int32(0)
    for _ in range(3):  # the ticket is ready for the next launch
        result = poisoned(1)
        kernels.run("norm", x, x.numel(), blocks, poisoned(blocks), ticket, result)
        torch.testing.assert_close(result[0].double(), x.double().norm(), rtol=1e-6, atol=0)
    assert ticket.item() == 0


@pytest.mark.usefixtures("resident_blocks")
def test_shared_memory_starts_poisoned_in_every_block(kernels: Kernels) -> None:
    out = torch.zeros(9, 2)
    kernels.run("read_unwritten", 9, out)
    assert out.isnan().all()


# --- Misuse --------------------------------------------------------------------------------------


def launch(kernels: Kernels, *shape: int, dynamic_shared_bytes: int = 0) -> None:
    """Launches an empty kernel: the extents of the grid, then those of the block."""
    extents = map(ctypes.c_uint, shape or (1, 1, 1, 1, 1, 1))
    kernels.run("launch", *extents, ctypes.c_size_t(dynamic_shared_bytes))


@pytest.mark.usefixtures("policy")
def test_divergent_barriers(kernels: Kernels) -> None:
    with pytest.raises(
        KernelError, match=r"divergent barrier: .* \d+ threads of the block"
    ) as info:
        kernels.run("divergent_barrier")
    lines = {line_of("__syncthreads();", "misuse.cpp", nth) for nth in (0, 1)}
    assert info.value.line in lines
    (other,) = lines - {info.value.line}
    assert f"misuse.cpp:{other}" in str(info.value)


@pytest.mark.usefixtures("policy")
def test_barriers_of_two_kinds_on_one_line_are_divergent(kernels: Kernels) -> None:
    with pytest.raises(KernelError, match="divergent barrier"):
        kernels.run("divergent_kind")


@pytest.mark.usefixtures("policy")
@pytest.mark.parametrize("leaver", [0, 17, 63])
def test_an_exit_before_a_barrier(kernels: Kernels, leaver: int) -> None:
    with pytest.raises(KernelError) as info:
        kernels.run("exit_before_barrier", leaver)
    # Reported by whoever comes second: the thread that leaves, or the first at the barrier.
    if info.value.thread == leaver:
        assert "threads of its block wait at __syncthreads()" in str(info.value)
    else:
        assert "__syncthreads() after 1 threads of the block have exited" in str(info.value)
    assert info.value.line == line_of("__syncthreads();", "misuse.cpp", 2 + 1)


def test_an_error_says_where(kernels: Kernels) -> None:
    with pytest.raises(KernelError) as info:
        kernels.run("own_lane_missing")
    line = line_of("__syncwarp(0xfffffffeu)", "misuse.cpp")
    assert (info.value.block, info.value.thread, info.value.line) == ((0, 0, 0), 0, line)
    assert str(info.value).startswith(f"misuse.cpp:{line}: block (0,0,0), thread (0,0,0): ")


def test_a_mask_without_the_calling_lane(kernels: Kernels) -> None:
    with pytest.raises(KernelError, match="with mask fffffffe, in which its own lane 0 is missing"):
        kernels.run("own_lane_missing")


@pytest.mark.usefixtures("policy")
def test_a_mask_with_lanes_beyond_the_block(kernels: Kernels) -> None:
    with pytest.raises(KernelError, match="mask ffffffff names lanes ffff0000, which have exited"):
        kernels.run("mask_of_absent_lanes")


@pytest.mark.usefixtures("policy")
@pytest.mark.parametrize("leaver", [0, 5, 31])
def test_a_mask_with_a_lane_that_exits(kernels: Kernels, leaver: int) -> None:
    with pytest.raises(KernelError) as info:
        kernels.run("mask_of_exited_lane", leaver)
    if info.value.thread == leaver:
        assert "of its warp wait for it at __syncwarp() with mask ffffffff" in str(info.value)
    else:
        assert f"mask ffffffff names lanes {1 << leaver:08x}, which have exited" in str(info.value)


@pytest.mark.usefixtures("policy")
def test_two_masks_whose_lanes_wait_for_each_other(kernels: Kernels) -> None:
    with pytest.raises(KernelError, match=r"a shuffle with mask .* while lanes .* wait for it"):
        kernels.run("masks_that_meet")


@pytest.mark.usefixtures("policy")
def test_one_mask_in_two_branches(kernels: Kernels) -> None:
    with pytest.raises(KernelError, match="a shuffle with mask ffffffff while lanes") as info:
        kernels.run("divergent_shuffle")
    first = line_of("void divergent_shuffle()", "misuse.cpp") + 2
    assert info.value.line in (first, first + 2)


@pytest.mark.usefixtures("policy")
def test_part_of_a_warp_may_work_while_the_rest_waits(kernels: Kernels) -> None:
    out = poisoned(32, dtype=torch.int32)
    kernels.run("parts_of_a_warp", out)
    assert out.tolist() == [sum(range(0, 32, 2))] * 32


@pytest.mark.parametrize("width", [0, -1, 3, 64])
def test_a_width_that_is_no_power_of_two(kernels: Kernels, width: int) -> None:
    with pytest.raises(KernelError, match=f"the width of a shuffle was {width}, must be a power"):
        kernels.run("bad_width", width)
    kernels.run("bad_width", 8)


def test_a_distance_beyond_the_warp(kernels: Kernels) -> None:
    with pytest.raises(KernelError, match="the distance of a shuffle was 32, must be below 32"):
        kernels.run("bad_distance", 32)
    kernels.run("bad_distance", 31)


@pytest.mark.usefixtures("policy")
def test_a_deadlock(kernels: Kernels) -> None:
    with pytest.raises(KernelError, match="deadlock: no thread can run") as info:
        kernels.run("deadlock")
    assert "4 wait at __syncthreads(), 124 at a warp operation" in str(info.value)


@pytest.mark.usefixtures("policy")
def test_a_livelock(kernels: Kernels) -> None:
    with pytest.raises(KernelError, match="livelock: no thread has finished within"):
        kernels.run("wait_for_flag", int32(0), 1_000_000, 2)


@pytest.mark.usefixtures("policy")
@pytest.mark.parametrize("setter", [0, 31, 40, 127])
def test_a_thread_that_spins_lets_the_one_it_waits_for_run(kernels: Kernels, setter: int) -> None:
    flag = int32(0)
    kernels.run("wait_for_flag", flag, setter, 4)
    assert flag.item() == 1


def test_shared_memory_over_the_limit(kernels: Kernels) -> None:
    kernels.run("large_shared", 1)
    kernels.run("large_shared", 2)
    with pytest.raises(KernelError, match="with second the block's shared memory is 52000 bytes"):
        kernels.run("large_shared", 3)
    with pytest.raises(KernelError, match="dynamic shared memory was 49153 bytes, must be at most"):
        launch(kernels, dynamic_shared_bytes=49153)
    launch(kernels, dynamic_shared_bytes=49152)


def test_a_write_beyond_a_shared_array(kernels: Kernels) -> None:
    kernels.run("overrun", 0)
    kernels.run("overrun_dynamic", 0)
    for distance in (1, 8):
        with pytest.raises(KernelError, match="wrote beyond the end of array") as info:
            kernels.run("overrun", distance)
        assert info.value.thread == -1
        with pytest.raises(KernelError, match="beyond the end of the dynamic shared memory"):
            kernels.run("overrun_dynamic", distance)


def test_an_index_out_of_bounds(kernels: Kernels) -> None:
    out = poisoned(1)
    kernels.run("index", 7, out)
    assert out.item() == 1
    for i in (8, -1):
        with pytest.raises(
            KernelError, match=rf"index {i} out of bounds of 'float ?\[8\]'"
        ) as info:
            kernels.run("index", i, out)
        assert info.value.line == line_of("array[i] = 1;", "misuse.cpp")


@pytest.mark.parametrize("kernel", ["vector_load", "vector_ldg"])
def test_a_misaligned_vector_load(kernels: Kernels, kernel: str) -> None:
    aligned, out = guarded_tensor(torch.arange(8.0), aligned=True), poisoned(1)
    kernels.run(kernel, aligned, out)
    assert out.item() == 1
    with pytest.raises(KernelError, match=r"misaligned .* must be a multiple of 16") as info:
        kernels.run(kernel, aligned[1:], out)
    assert info.value.line == line_of("*out = ", "misuse.cpp", 1 + (kernel == "vector_ldg"))


def test_a_misaligned_vector_store(kernels: Kernels) -> None:
    x = guarded_tensor(torch.zeros(8), aligned=True)
    kernels.run("vector_store", x)
    assert x.tolist() == [1, 2, 3, 4, 0, 0, 0, 0]
    with pytest.raises(KernelError, match="misaligned store"):
        kernels.run("vector_store", x[2:])


def test_a_shift_by_the_width_of_its_type(kernels: Kernels) -> None:
    out = poisoned(1, dtype=torch.int32)
    kernels.run("shift", 5, out)
    assert out.item() == 32
    with pytest.raises(KernelError, match="shift of 'unsigned int' by 32"):
        kernels.run("shift", 32, out)


def test_a_division_by_zero(kernels: Kernels) -> None:
    out = poisoned(1, dtype=torch.int32)
    kernels.run("divide", 1, out)
    assert out.item() == 1
    with pytest.raises(KernelError, match="division of 'int' by 0"):
        kernels.run("divide", 0, out)


def test_a_stack_overflow(kernels: Kernels) -> None:
    out = poisoned(1, dtype=torch.int32)
    kernels.run("deep_recursion", 10, out)
    assert out.item() == sum(range(11))
    with pytest.raises(KernelError, match="the thread's stack overflowed"):
        kernels.run("deep_recursion", 100_000, out)


def test_a_trap(kernels: Kernels) -> None:
    with pytest.raises(KernelError, match=r"__trap\(\)"):
        kernels.run("trap")


def test_an_exception_in_a_kernel(kernels: Kernels) -> None:
    with pytest.raises(KernelError, match="the kernel threw an exception: thrown by the kernel"):
        kernels.run("throw")


def test_a_launch_in_a_kernel(kernels: Kernels) -> None:
    with pytest.raises(KernelError, match="a launch from within a kernel"):
        kernels.run("nested_launch")


def test_a_barrier_outside_of_a_kernel(kernels: Kernels) -> None:
    with pytest.raises(KernelError, match="outside of a kernel"):
        kernels.run("barrier_outside")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 1, 1, 1, 1, 1), "gridDim.x was 0, must be from 1 to 2147483647"),
        ((2**31, 1, 1, 1, 1, 1), "gridDim.x was 2147483648, must be from 1 to 2147483647"),
        ((1, 65536, 1, 1, 1, 1), "gridDim.y was 65536, must be from 1 to 65535"),
        ((1, 1, 65536, 1, 1, 1), "gridDim.z was 65536, must be from 1 to 65535"),
        ((1, 1, 1, 0, 1, 1), "blockDim.x was 0, must be from 1 to 1024"),
        ((1, 1, 1, 1025, 1, 1), "blockDim.x was 1025, must be from 1 to 1024"),
        ((1, 1, 1, 1, 1025, 1), "blockDim.y was 1025, must be from 1 to 1024"),
        ((1, 1, 1, 1, 1, 65), "blockDim.z was 65, must be from 1 to 64"),
        ((1, 1, 1, 32, 33, 1), "a block had 1056 threads, must have at most 1024"),
    ],
)
def test_launches_that_a_gpu_refuses(
    kernels: Kernels, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(KernelError) as info:
        launch(kernels, *shape)
    assert str(info.value) == f"invalid launch: {message}"


@pytest.mark.usefixtures("policy")
@pytest.mark.parametrize(
    ("failing", "arguments"),
    [
        ("divergent_barrier", ()),
        ("deadlock", ()),
        ("throw", ()),
        ("overrun", (1,)),
        ("deep_recursion", (100_000, torch.zeros(1, dtype=torch.int32))),
    ],
)
def test_the_launch_after_an_error_is_as_fresh_as_any(
    kernels: Kernels, policy: Policy, failing: str, arguments: tuple[Any, ...]
) -> None:
    with kernels.engine.configure(policy, 11):
        launch(kernels)
        expected = trace(kernels)
    with kernels.engine.configure(policy, 11):
        with pytest.raises(KernelError):
            kernels.run(failing, *arguments)
        assert trace(kernels) == expected
        assert not sums_differ(kernels, missing=0)


# --- Memory beyond the end -----------------------------------------------------------------------


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """`code` in a process of its own, which it may take down."""
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        env={**os.environ, "PYTHONPATH": os.fspath(SOURCE.parent)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def beyond_the_end() -> subprocess.CompletedProcess[str]:
    """A kernel reads a tensor, then one element more; then Python itself does."""
    load("engine_selftest")
    return run_python(
        """
import ctypes, torch
from simt.emulator import guarded_tensor, load
functions = load("engine_selftest").functions
functions.selftest_error.restype = ctypes.c_char_p
x, total = guarded_tensor(torch.ones(1000)), torch.zeros(1)
for numel in (1000, 1001):
    failed = functions.selftest_read_beyond(
        ctypes.c_void_p(x.data_ptr()), numel, ctypes.c_void_p(total.data_ptr())
    )
    print(functions.selftest_error().decode() if failed else total.item(), flush=True)
ctypes.string_at(x.data_ptr() + 4000, 1)
print("not reached")
"""
    )


def test_a_read_beyond_the_end_fails_the_launch(
    beyond_the_end: subprocess.CompletedProcess[str],
) -> None:
    first, second = beyond_the_end.stdout.splitlines()
    assert first == "1000.0"
    assert second.startswith("block (0,0,0), thread (0,0,0): accessed unreadable memory at 0x")


def test_a_fault_outside_of_a_kernel_goes_where_it_went_before(
    beyond_the_end: subprocess.CompletedProcess[str],
) -> None:
    assert beyond_the_end.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in beyond_the_end.stderr


@pytest.mark.parametrize("aligned", [None, True, False])
@pytest.mark.parametrize("numel", [1, 4, 1000, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64]
)
def test_guarded_tensors_end_where_memory_does(
    dtype: torch.dtype, numel: int, aligned: bool | None
) -> None:
    values = torch.arange(numel).to(dtype)
    tensor = guarded_tensor(values, aligned=aligned)
    assert torch.equal(tensor, values)
    assert tensor.is_contiguous()
    start, size = tensor.data_ptr(), numel * tensor.element_size()
    slack = -(start + size) % os.sysconf("SC_PAGESIZE")
    if aligned is None:
        assert slack == 0
    elif aligned:
        assert start % 16 == 0
        assert slack < 16
    else:
        assert start % 16 != 0
        assert start % tensor.element_size() == 0
        assert slack <= tensor.element_size()


def test_guarded_tensors_keep_their_shape_and_notice_writes_around_them() -> None:
    tensor = guarded_tensor(torch.arange(15.0).view(3, 5), aligned=True)
    assert tensor.shape == (3, 5)
    assert padding_is_intact(tensor)
    tensor.zero_()
    assert padding_is_intact(tensor)
    ctypes.memset(tensor.data_ptr() + 4 * 15, 0, 1)
    assert not padding_is_intact(tensor)
    tensor = guarded_tensor(torch.arange(15.0))
    ctypes.memset(tensor.data_ptr() - 1, 0, 1)
    assert not padding_is_intact(tensor)


def test_guarded_tensors_without_elements() -> None:
    tensor = guarded_tensor(torch.empty(0, 3))
    assert tensor.shape == (0, 3)
    assert tensor.data_ptr() == 0


def test_elements_that_are_always_aligned_can_not_be_unaligned() -> None:
    with pytest.raises(ValueError, match="aligned was False for elements of 16 bytes"):
        guarded_tensor(torch.zeros(3, dtype=torch.complex128), aligned=False)


# --- What kernels call ---------------------------------------------------------------------------


INDEX, UP, DOWN, XOR = range(4)


def shuffled(kind: int, lane: int, argument: int, width: int) -> int:
    """The lane whose value `lane` gets, as the CUDA C++ Programming Guide has it."""
    first = lane // width * width
    source = {
        INDEX: first + argument % width,
        UP: lane - argument,
        DOWN: lane + argument,
        XOR: lane ^ argument,
    }[kind]
    if kind == UP and source < first:
        return lane
    return lane if source >= first + width else source


@pytest.mark.usefixtures("policy")
@pytest.mark.parametrize("kind", [INDEX, UP, DOWN, XOR])
@pytest.mark.parametrize("width", [32, 8, 1])
@pytest.mark.parametrize(("name", "dtype"), [("double", torch.float64), ("int", torch.int32)])
def test_shuffles(kernels: Kernels, kind: int, width: int, name: str, dtype: torch.dtype) -> None:
    # Values that need all of their 8 (4) bytes.
    values = (torch.arange(32, dtype=torch.float64) + 1).sqrt()
    values = values if dtype == torch.float64 else (values * 2**28).to(dtype)
    for argument in (0, 1, 5, 16, 31):
        out = poisoned(32, dtype=dtype)
        kernels.run(f"shuffle_{name}", kind, argument, width, ALL_LANES, values, out)
        expected = [shuffled(kind, lane, argument, width) for lane in range(32)]
        assert torch.equal(out, values[expected])


@pytest.mark.usefixtures("policy")
def test_a_shuffle_from_outside_of_the_mask_gives_poison(kernels: Kernels) -> None:
    values = torch.arange(32, dtype=torch.float64)
    out = torch.zeros(32, dtype=torch.float64)
    kernels.run("shuffle_double", DOWN, 1, 32, 0x0000FFFF, values, out)
    assert torch.equal(out[:15], values[1:16])
    assert out[15].isnan()
    assert torch.equal(out[16:], torch.zeros(16, dtype=torch.float64))


@pytest.mark.usefixtures("policy")
@pytest.mark.parametrize("voters", ["none", "some", "all"])
def test_votes(kernels: Kernels, voters: str) -> None:
    votes = int32(
        *(0 if voters == "none" else int(voters == "all" or i % 3 == 0) for i in range(96))
    )
    out = poisoned(96, 7, dtype=torch.int32)
    kernels.run("votes", votes, out, 96)
    for warp, ayes in enumerate(votes.view(3, 32).tolist()):
        ballot = sum(aye << lane for lane, aye in enumerate(ayes))
        for lane, row in enumerate(out.view(3, 32, 7)[warp].tolist()):
            assert row[0] & ALL_LANES == ballot
            assert row[1:3] == [any(ayes), all(ayes)]
            assert row[3:6] == [votes.sum().item(), votes.all().item(), votes.any().item()]
            assert row[6] & ALL_LANES == (ballot if ayes[lane] else ~ballot & ALL_LANES)


class Atomics(ctypes.Structure):
    """The struct of selftest/intrinsics.cpp."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ["int_sum", "int_min", "int_max", "int_difference"]),
        ("int_wrapped", ctypes.c_int),
        *((name, ctypes.c_uint) for name in ["unsigned_sum", "unsigned_max", "ticks_up"]),
        *((name, ctypes.c_uint) for name in ["ticks_down", "bits_or", "bits_and", "bits_xor"]),
        ("swapped", ctypes.c_uint),
        *((name, ctypes.c_ulonglong) for name in ["long_sum", "long_max", "long_swapped"]),
        ("float_sum", ctypes.c_float),
        ("double_sum", ctypes.c_double),
    )


@pytest.mark.usefixtures("resident_blocks")
def test_atomics(kernels: Kernels) -> None:
    a = Atomics(bits_and=0xFFFFF)
    kernels.run("atomics", 5, 100, ctypes.byref(a))
    n, total = 500, sum(range(500))
    assert (a.int_sum, a.int_min, a.int_max, a.int_difference) == (total, -499, 499, -total)
    assert a.int_wrapped == 0  # 500 times 2**30
    assert (a.unsigned_sum, a.unsigned_max) == (total, 499)
    assert (a.ticks_up, a.ticks_down) == (n % 10, 0)
    assert (a.bits_or, a.bits_and) == (ALL_LANES, 0xF0000)
    assert a.bits_xor == 0  # of 0..499
    assert 0 <= a.swapped < n
    assert (a.long_sum, a.long_max, a.long_swapped) == (n << 33, 499 << 33, total)
    assert (a.float_sum, a.double_sum) == (total, n / 2)


def test_integer_intrinsics(kernels: Kernels) -> None:
    values = [0, 1, 2, 12, 0x7F800001, -1, -8, -(2**31)]
    out = poisoned(len(values), 8, dtype=torch.int32)
    kernels.run("integers", int32(*values), out, len(values))
    for x, row in zip(values, out.tolist(), strict=True):
        bits = f"{x & ALL_LANES:032b}"
        assert row[0] == (bits.index("1") if x else 32)
        assert row[1] == (bits[::-1].index("1") + 1 if x else 0)
        assert row[2] == bits.count("1")
        assert row[3] & ALL_LANES == int(bits[::-1], 2)
        assert row[4:] == [x, x, x, ~x]


def test_floating_point_intrinsics(kernels: Kernels) -> None:
    x = torch.tensor([1 + 2**-30, 1 + 2**-20, 3.7, math.nan], dtype=torch.float64)
    f, exact = x.float(), x.float().double()
    out = poisoned(len(x), 8, dtype=torch.float64)
    kernels.run("floats", x, out, len(x))
    torch.testing.assert_close(out[:, 0], x * x - x, rtol=0, atol=0, equal_nan=True)
    assert out[:2, 1].tolist() == [2**-30 + 2**-60, 2**-20 + 2**-40], "the product isn't rounded"
    torch.testing.assert_close(out[:, 2], (f * f - f).double(), rtol=0, atol=0, equal_nan=True)
    # The product of two float32 values is exact in float64, where the sum is rounded far finer.
    fused = (exact * exact - exact).float().double()
    torch.testing.assert_close(out[:, 3], fused, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(out[:, 4], exact.rsqrt(), rtol=2**-23, atol=0, equal_nan=True)
    assert out[:, 5].tolist() == [min(v, 1.0) for v in exact.tolist()[:3]] + [1.0]
    assert out[:, 6].tolist() == [max(v, 1.0) for v in exact.tolist()[:3]] + [1.0]
    assert out[:, 7].tolist() == [-1.0] * len(x)


def test_loads_and_stores_with_cache_hints(kernels: Kernels) -> None:
    values, out = torch.randn(8, 4), poisoned(8, 4)
    kernels.run("copy_float4", values, out, 8)
    assert torch.equal(out, values)
    halves, copies = torch.randn(8).half(), poisoned(8, dtype=torch.float16)
    kernels.run("copy_half", halves, copies, 8)
    assert torch.equal(copies, halves)


def test_sixteen_bit_floats_round_as_in_torch(kernels: Kernels) -> None:
    values = torch.cat([torch.randn(500), torch.tensor([0.0, 1e-7, 65519.0, 65520.0, 3e38, 1e-45])])
    halves, bfloats = poisoned(len(values)), poisoned(len(values))
    kernels.run("round_to_16_bits", values, halves, bfloats, len(values))
    assert torch.equal(halves, values.half().float())
    assert torch.equal(bfloats, values.bfloat16().float())


@pytest.mark.parametrize(
    ("declaration", "compiles"),
    [
        ("float array[32];", True),
        ("__shared__ float array[32];", False),
        ("extern __shared__ float array[];", False),
    ],
)
def test_raw_shared_memory_does_not_compile(
    tmp_path: Path, declaration: str, compiles: bool
) -> None:
    load("engine_selftest")
    source = tmp_path / "kernel.cpp"
    source.write_text(
        '#include "simt.h"\n'
        "__global__ void __launch_bounds__(32, 2)\n"
        "kernel(const __grid_constant__ int n, float* __restrict__ out) {\n"
        f"  {declaration}\n"
        "  out[n] = array[n];\n"
        "}\n"
    )
    result = subprocess.run(
        [*compiler_with_cuda_headers(), "-I", SOURCE, "-fsyntax-only", source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode == 0) == compiles, result.stderr
    assert ("__shared__ does nothing here" in result.stderr) == (not compiles)


def compiler_with_cuda_headers() -> list[str]:
    """The compiler, and where its headers are, as the build has found them."""
    ninja = shutil.which("ninja", path=os.fspath(Path(sys.executable).parent)) or "ninja"
    commands = subprocess.run(
        [ninja, "-C", BUILD, "-t", "commands", "engine_selftest"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    words = next(line for line in commands.splitlines() if "report.cpp" in line).split()
    headers = [word for i, word in enumerate(words) if "-isystem" in words[max(i - 1, 0) : i + 1]]
    # Before the first option: the compiler, and what launches it, if the build has a cache.
    command = itertools.takewhile(lambda word: not word.startswith("-"), words)
    return [*command, "-std=c++17", *headers]
