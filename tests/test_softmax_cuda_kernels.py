"""Softmax's CUDA kernels as source: every scheduling policy, rows of every kernel, few blocks."""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import c_int32, c_int64

import pytest
import torch
from exact_reference import same_bits, ulp_distance
from simt import emulator
from softmax_reference import exact_softmax, log_softmax_distance
from test_cuda_kernels import schedules
from torch import Tensor

from gradkern import _core
from gradkern.softmax import LOG_SOFTMAX, SOFTMAX

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

# A warp's rows, a block's, and longer ones; columns of one thread each, of some, of a whole tile.
SHAPES = [((19, 37), 1), ((5, 2500), 1), ((3, 20_000), 1), ((3, 40, 5), 1), ((2, 9, 300), 1)]


@pytest.fixture(autouse=True)
def simt(simt_library: None) -> Iterator[emulator.Emulator]:
    engine = emulator.load()
    _core.serve_cpu_with("simt")
    try:
        yield engine
    finally:
        engine.functions.simt_restore_launch_limits()
        _core.serve_cpu_with("cpu")


def placed(shape: tuple[int, ...], dtype: torch.dtype, aligned: bool, seed: int = 0) -> Tensor:
    """Before a page that can't be touched."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=torch.float64) * 4
    return emulator.guarded_tensor(values.to(dtype), aligned=aligned)


def run(shape: tuple[int, ...], dim: int, dtype: torch.dtype, aligned: bool) -> list[Tensor]:
    x, grad = placed(shape, dtype, aligned), placed(shape, dtype, aligned, seed=1)
    results = []
    for kind in (SOFTMAX, LOG_SOFTMAX):
        y, of_x = placed(shape, dtype, aligned, seed=2), placed(shape, dtype, aligned, seed=3)
        kind.value_out(x, dim, out=y)
        kind.backward_out(grad, y, dim, out=of_x)
        assert emulator.padding_is_intact(y)
        assert emulator.padding_is_intact(of_x)
        results += [y.clone(), of_x.clone()]
    return results


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "dim"), SHAPES, ids=str)
def test_right_and_the_same_under_every_schedule(
    simt: emulator.Emulator, shape: tuple[int, ...], dim: int, dtype: torch.dtype
) -> None:
    results = []
    for number, (policy, seed, resident) in enumerate(schedules()):
        # Fewer blocks than rows: a block has several.
        simt.functions.simt_limit_launches(c_int64(256), c_int32(4), c_int64(2 + number % 3))
        with simt.configure(policy, seed, resident):
            results.append(run(shape, dim, dtype, aligned=number % 2 == 0))
    y, _, log_y, _ = results[0]
    x = placed(shape, dtype, aligned=True)
    assert ulp_distance(y, exact_softmax(x, dim)) <= 4
    assert log_softmax_distance(log_y, x, dim) <= 4
    for result in results[1:]:
        for got, want in zip(result, results[0], strict=True):
            assert same_bits(got, want), "bits depend on the schedule, the blocks or alignment"


@pytest.mark.parametrize(("shape", "dim"), SHAPES, ids=str)
def test_gradients_agree_with_the_cpu_s(shape: tuple[int, ...], dim: int) -> None:
    got = run(shape, dim, torch.float64, aligned=True)
    _core.serve_cpu_with("cpu")
    want = run(shape, dim, torch.float64, aligned=True)
    torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-15)


def test_one_launch_each(simt: emulator.Emulator) -> None:
    simt.reset_statistics()
    y = SOFTMAX.value(torch.randn(100, 50), 1)
    SOFTMAX.backward(y, y, 1)
    assert simt.statistics().launches == 2
