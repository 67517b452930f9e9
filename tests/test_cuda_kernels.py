"""The CUDA kernels' source on the CPU: every scheduling policy, many chunks, several launches.

The engine (tests/simt) reports races that a schedule exposes, divergent barriers, wrong warp masks
and accesses out of bounds; these tests report wrong results.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_int32, c_int64

import pytest
import torch
from simt import emulator
from torch import Tensor

from gradkern import _core, ops

POLICIES = list(emulator.Policy)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INF = math.inf


@pytest.fixture(autouse=True)
def simt(simt_library: None) -> Iterator[emulator.Emulator]:
    engine = emulator.load()
    _core.serve_cpu_with("simt")
    try:
        yield engine
    finally:
        engine.functions.simt_restore_launch_limits()
        _core.serve_cpu_with("cpu")


@contextmanager
def limited(
    engine: emulator.Emulator, chunk: int = 32768, tensors: int = 1016, blocks: int = 2**31 - 1
) -> Iterator[None]:
    engine.functions.simt_limit_launches(c_int64(chunk), c_int32(tensors), c_int64(blocks))
    try:
        yield
    finally:
        engine.functions.simt_restore_launch_limits()


def tensors_of(dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    """Several chunks of 256, a part of one, one element, none, unaligned, and a 2-d one."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return [
        emulator.guarded_tensor(normal(1500), aligned=True),
        emulator.guarded_tensor(normal(131)),
        normal(1),
        torch.empty(0, dtype=dtype),
        emulator.guarded_tensor(normal(777), aligned=False),
        normal(9, 33),
    ]


def reference_norm(tensor: Tensor, order: float) -> float:
    x = tensor.double().abs().flatten()
    if order == 0:
        return float((x != 0).sum())
    if order == INF:
        return float(x.max())
    return float((x**order).sum() ** (1 / order))


def schedules() -> list[tuple[emulator.Policy, int, int]]:
    deterministic = [(p, 1, 4) for p in POLICIES[:2]]
    return deterministic + [
        (p, seed, resident)
        for p, seed, resident in itertools.product(POLICIES[2:], (1, 2, 3), (1, 3))
    ]


@pytest.mark.parametrize("order", [0.0, 1.0, 2.0, 3.5, INF])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norms_are_right_and_the_same_under_every_schedule(
    simt: emulator.Emulator, dtype: torch.dtype, order: float
) -> None:
    tensors = [t for t in tensors_of(dtype) if t.numel()]
    expected = [reference_norm(t, order) for t in tensors]
    results = []
    for policy, seed, resident in schedules():
        with simt.configure(policy, seed, resident), limited(simt, chunk=256, tensors=4, blocks=5):
            norms = ops.tensor_norms(tensors, order)
            total = ops.total_norm(tensors, order)
        results.append([*norms.tolist(), total.item()])
    assert results[0][:-1] == pytest.approx(expected, rel=1e-13)
    total = reference_norm(torch.tensor(expected, dtype=torch.float64), order)
    assert results[0][-1] == pytest.approx(total, rel=1e-13)
    assert all(result == results[0] for result in results), "bits depend on the schedule"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spoilt", [False, True], ids=["finite", "with NaN and infinity"])
def test_statistics_under_every_schedule(
    simt: emulator.Emulator, dtype: torch.dtype, spoilt: bool
) -> None:
    tensors = tensors_of(dtype)
    if spoilt:
        tensors[0][[3, 700]] = math.nan
        tensors[4][776] = -INF
        tensors[1][:50] = 0
    _core.serve_cpu_with("cpu")
    expected = ops.tensor_stats(tensors)
    _core.serve_cpu_with("simt")
    results = []
    for policy, seed, resident in schedules():
        with simt.configure(policy, seed, resident), limited(simt, chunk=256, tensors=3, blocks=4):
            results.append(ops.tensor_stats(tensors))
    torch.testing.assert_close(results[0], expected, rtol=1e-12, atol=1e-12, equal_nan=True)
    for result in results:
        assert torch.equal(result, results[0]), "bits depend on the schedule"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("max_norm", [1.0, 1e9], ids=["clips", "nothing to clip"])
def test_clip_under_every_schedule(
    simt: emulator.Emulator, dtype: torch.dtype, max_norm: float
) -> None:
    before = tensors_of(dtype)
    total = ops.total_norm(before, 2.0).item()
    factor = min(1.0, max_norm / (total + 1e-6))
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    scale = torch.tensor(factor, dtype=arithmetic)
    expected = [(t.to(arithmetic) * scale).to(dtype) for t in before]
    for policy, seed, resident in schedules():
        with simt.configure(policy, seed, resident), limited(simt, chunk=256, tensors=4, blocks=9):
            grads = tensors_of(dtype)
            ops.clip_grad_norm_(grads, max_norm, 2.0)
        for grad, want in zip(grads, expected, strict=True):
            assert torch.equal(grad, want)
        assert emulator.padding_is_intact(grads[0])
        assert emulator.padding_is_intact(grads[4])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_clip_by_unit_and_by_tensor_agree_with_the_cpu(
    simt: emulator.Emulator, dtype: torch.dtype
) -> None:
    def run() -> list[Tensor]:
        grads, weights = tensors_of(dtype), tensors_of(dtype, seed=1)
        weights = [w.view(g.shape) * 0.1 for w, g in zip(weights, grads, strict=True)]
        ops.adaptive_clip_grad_(grads, weights, 0.01, 1e-3, 2.0)
        ops.clip_grad_norm_per_tensor_(grads, 0.5, 2.0)
        ops.clip_grad_value_(grads, 0.003)
        return grads

    _core.serve_cpu_with("cpu")
    expected = run()
    _core.serve_cpu_with("simt")
    for policy in POLICIES:
        with simt.configure(policy, 7, 2), limited(simt, chunk=256, tensors=2, blocks=3):
            got = run()
        # The last bit of a float64 norm differs between the devices, and so may that of a result.
        rtol = 1e-14 if dtype == torch.float64 else 0
        torch.testing.assert_close(got, expected, rtol=rtol, atol=0)


def test_bits_do_not_depend_on_alignment(simt: emulator.Emulator) -> None:
    values = torch.randn(5000)
    results = set()
    for offset in range(5):
        storage = torch.empty(5000 + 8)
        view = storage[offset : offset + 5000].copy_(values)
        with limited(simt, chunk=1024):
            results.add(ops.total_norm([view], 2.0).item())
    assert len(results) == 1


@pytest.mark.parametrize("count", [1, 1000, 1001, 2100])
def test_launches_are_few(simt: emulator.Emulator, count: int) -> None:
    """At most ceil(n / 1000) + 2 with the memset: one per thousand tensors, and one to scale."""
    grads = [torch.ones(3) for _ in range(count)]
    simt.reset_statistics()
    ops.clip_grad_norm_(grads, 0.5, 2.0)
    memset = 1
    assert simt.statistics().launches + memset <= math.ceil(count / 1000) + 2


def test_a_tensor_of_more_blocks_than_a_grid_spans_launches(simt: emulator.Emulator) -> None:
    grads = [torch.randn(3000), torch.randn(10)]
    expected = reference_norm(torch.cat(grads), 2.0)
    with limited(simt, chunk=64, blocks=7):
        assert ops.total_norm(grads, 2.0).item() == pytest.approx(expected, rel=1e-14)
        ops.clip_grad_norm_(grads, 1.0, 2.0)
    assert reference_norm(torch.cat(grads), 2.0) == pytest.approx(1.0, rel=1e-5)
