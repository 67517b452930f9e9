"""Batch normalisation's CUDA kernels as source: passes, layouts, activations, schedules."""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import c_int32, c_int64

import pytest
import torch
from exact_reference import same_bits
from simt import emulator
from table_call import ACTIVATIONS, Pass, Problem, Sizes, all_passes, check, run
from test_cuda_kernels import schedules

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
AS_ON_A_GPU = 32768

# Planes: of one vector and less, of some and a part of one, aligned ones. Columns: one thread's, a
# part of a tile, several tiles.
SIZES = [
    Sizes(5, 3, 7),
    Sizes(2, 3, 49),
    Sizes(2, 1, 1024),
    Sizes(1, 2, 600),
    Sizes(40, 1, 1),
    Sizes(300, 3, 1),
    Sizes(37, 24, 1),
    Sizes(9, 300, 1),
]


@pytest.fixture(autouse=True)
def simt() -> Iterator[emulator.Emulator]:
    engine = emulator.load()
    try:
        yield engine
    finally:
        engine.functions.simt_restore_launch_limits()


def limit(engine: emulator.Emulator, chunk: int, blocks: int = 2**31 - 1) -> None:
    engine.functions.simt_limit_launches(c_int64(chunk), c_int32(4), c_int64(blocks))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_right_and_the_same_under_every_schedule(
    simt: emulator.Emulator, sizes: Sizes, dtype: torch.dtype
) -> None:
    results = []
    for number, (policy, seed, resident) in enumerate(schedules()):
        aligned = number % 2 == 0
        problem = Problem(sizes, dtype, activation=2, with_residual=True, aligned=aligned)
        # Chunks of a few vectors, and fewer blocks than chunks.
        limit(simt, 128, 2 + number % 3)
        with simt.configure(policy, seed, resident):
            results.append(all_passes(problem))
    check(results[0], problem)
    for result in results[1:]:
        for got, want in zip(result.tensors(), results[0].tensors(), strict=True):
            assert same_bits(got, want), "bits depend on the schedule, the blocks or alignment"


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "no weight"])
@pytest.mark.parametrize("with_residual", [True, False], ids=["residual", "no residual"])
@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)))
def test_every_activation(
    simt: emulator.Emulator, activation: int, with_residual: bool, affine: bool
) -> None:
    for number, dtype in enumerate(DTYPES):
        for sizes in (Sizes(3, 2, 130), Sizes(70, 11, 1)):
            for chunk in (128, AS_ON_A_GPU):  # of which the latter holds channels
                limit(simt, chunk)
                problem = Problem(
                    sizes, dtype, activation, affine, with_residual, aligned=number % 2 == 0
                )
                check(all_passes(problem), problem)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "sizes", [Sizes(2, 2, 6000), Sizes(1, 1, 40_000), Sizes(2000, 9, 1)], ids=str
)
def test_chunks_as_on_a_gpu(sizes: Sizes, dtype: torch.dtype) -> None:
    problem = Problem(sizes, dtype, activation=1)
    check(all_passes(problem), problem)


@pytest.mark.parametrize("sizes", [Sizes(4, 2, 500), Sizes(2000, 3, 1)], ids=str)
@pytest.mark.parametrize("chunk", [256, AS_ON_A_GPU])
def test_a_mean_that_is_large_beside_the_deviations(
    simt: emulator.Emulator, sizes: Sizes, chunk: int
) -> None:
    limit(simt, chunk)
    problem = Problem(sizes, torch.float32, affine=False, mean=1e4, std=1e-2)
    y, mean, invstd = problem.empty(), problem.numbers(), problem.numbers()
    run(problem, Pass.FORWARD, y=y, mean=mean, invstd=invstd)
    x = problem.x.double()
    want = (x - x.mean(dim=(0, 2), keepdim=True)) / (
        x.var(dim=(0, 2), keepdim=True, correction=0) + 1e-5
    ).sqrt()
    assert float((y.double() - want).abs().max()) < 2e-6


@pytest.mark.parametrize("sizes", [Sizes(4, 2, 500), Sizes(2000, 3, 1)], ids=str)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_beyond_float32(sizes: Sizes, scale: float) -> None:
    problem = Problem(sizes, torch.float32, mean=0, std=scale)
    mean, squares = problem.numbers(), problem.numbers()
    run(problem, Pass.MOMENTS, mean=mean, sum_squared_deviations=squares)
    x = problem.x.double()
    want = ((x - x.mean(dim=(0, 2), keepdim=True)) ** 2).sum(dim=(0, 2))
    torch.testing.assert_close(squares, want, rtol=1e-11, atol=0)


@pytest.mark.parametrize("sizes", [Sizes(4, 3, 50), Sizes(50, 3, 1)], ids=str)
def test_nan_stays_in_its_channel(simt: emulator.Emulator, sizes: Sizes) -> None:
    limit(simt, 64)
    problem = Problem(sizes, torch.float32, activation=1)
    problem.x[1, 1, 0] = torch.nan
    y, mean, invstd = problem.empty(), problem.numbers(), problem.numbers()
    run(problem, Pass.FORWARD, y=y, mean=mean, invstd=invstd)
    assert y[:, 1].isnan().all()
    assert y[:, [0, 2]].isfinite().all()


def test_launches_are_few(simt: emulator.Emulator) -> None:
    def launches(sizes: Sizes) -> list[int]:
        problem = Problem(sizes, torch.float32)
        y, mean, invstd = problem.empty(), problem.numbers(), problem.numbers()
        simt.reset_statistics()
        run(problem, Pass.FORWARD, y=y, mean=mean, invstd=invstd)
        forward = simt.statistics().launches
        sums = {"sum_dz": problem.numbers(), "sum_dz_xhat": problem.numbers()}
        run(
            problem,
            Pass.BACKWARD,
            **sums,
            mean=mean,
            invstd=invstd,
            grad_output=problem.grad,
            grad_input=y,
        )
        return [forward, simt.statistics().launches - forward]

    assert launches(Sizes(2, 3, 100)) == [1, 1]  # held
    assert launches(Sizes(2, 1, 20_000)) == [2, 2]
    assert launches(Sizes(200, 3, 1)) == [2, 2]
