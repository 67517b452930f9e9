"""The CUDA kernels of the activations, as source on the CPU or on a GPU, against the CPU's kernels.

The engine (tests/simt) reports races that a schedule exposes, divergent barriers and accesses out
of bounds; these tests report wrong results.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from ctypes import c_int32, c_int64
from typing import Any

import pytest
import torch
from activation_reference import (
    DERIVATIVE_ULPS,
    REFERENCES,
    VALUE_ULPS,
    describe,
    expected,
    parameter_sets,
)
from simt import emulator
from table_rows import DTYPES, ROWS, SPECIAL, name, normal, passes, same_bits
from torch import Tensor

from gradkern import _core
from gradkern.activations import TABLE, Activation


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def values_of(dtype: torch.dtype) -> Tensor:
    """Several blocks of the lowered limit, and a tail."""
    special = torch.tensor(SPECIAL, dtype=torch.float64)
    return torch.cat([special, normal(1400, dtype=torch.float64, scale=4)]).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("row", ROWS, ids=name)
def test_every_pass(backend: Any, row: Activation, dtype: torch.dtype) -> None:
    """On 1409 elements, that is three blocks; values and derivatives within their bounds."""
    if backend.name == "cpu":
        pytest.skip("test_accuracy.py has many more inputs for it")
    x, grad = values_of(dtype), normal(1409, dtype=dtype, seed=1)
    reference = REFERENCES[row.name]
    short = x[:300] if dtype == torch.float64 else x
    for parameters in parameter_sets(row):
        results = {}
        for operator, tensors in passes(row):
            inputs = [t.to(backend.device) for t in (grad, x)[2 - tensors :]]
            results[operator] = [r.cpu() for r in as_tuple(operator(*inputs, *parameters))]
        (y,), (dy,) = results[row.value], results[row.derivative]
        value = expected(reference.value, short, parameters)
        derivative = expected(reference.derivative, short, parameters)
        size = short.numel()
        assert not describe(y[:size], value, short, VALUE_ULPS)
        assert not describe(dy[:size], derivative, short, DERIVATIVE_ULPS, reference.zeros)
        assert same_bits(results[row.with_derivative][0], y)
        assert same_bits(results[row.with_derivative][1], dy)
        if dtype in (torch.float32, torch.float64):
            assert same_bits(results[row.backward][0], grad * dy)


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_the_second_passes_agree_with_the_cpu(backend: Any, row: Activation) -> None:
    if backend.name == "cpu":
        pytest.skip("compares with it")
    x, grad = normal(900, dtype=torch.float64), normal(900, dtype=torch.float64, seed=1)
    operators = [row.second]
    operators += [row.backward_of_output, row.second_of_output] if row.saves_output else []
    for operator in operators:
        saved = x if operator is row.second else row.value(x, *row.defaults())
        got = operator(grad.to(backend.device), saved.to(backend.device), *row.defaults()).cpu()
        _core.serve_cpu_with("cpu")
        want = operator(grad, saved, *row.defaults())
        _core.serve_cpu_with("simt" if backend.name == "simt" else "cpu")
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.fixture
def engine(simt_library: None) -> Iterator[emulator.Emulator]:
    loaded = emulator.load()
    loaded.functions.simt_limit_launches(c_int64(256), c_int32(4), c_int64(5))
    _core.serve_cpu_with("simt")
    try:
        yield loaded
    finally:
        loaded.functions.simt_restore_launch_limits()
        _core.serve_cpu_with("cpu")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("row", [TABLE["silu"], TABLE["sigmoid"]], ids=name)
def test_alignment_and_bounds(
    engine: emulator.Emulator, row: Activation, dtype: torch.dtype
) -> None:
    """Inputs and outputs at the end of readable memory, in every combination of alignments."""
    values, grad = normal(613, dtype=dtype), normal(613, dtype=dtype, seed=1)
    for operator, tensors in ((row.value_out, 1), (backward_out(row), 2)):
        want = None
        for aligned in itertools.product((True, False), repeat=tensors + 1):
            inputs = [
                emulator.guarded_tensor(t, aligned=a)
                for t, a in zip((grad, values)[2 - tensors :], aligned[1:], strict=True)
            ]
            out = emulator.guarded_tensor(torch.zeros_like(values), aligned=aligned[0])
            operator(*inputs, out=out)
            want = out.clone() if want is None else want
            assert same_bits(out, want)
            assert all(emulator.padding_is_intact(t) for t in (out, *inputs))
    in_place = emulator.guarded_tensor(values, aligned=False)
    row.value_(in_place)
    assert same_bits(in_place, row.value(values))
    assert emulator.padding_is_intact(in_place)


def backward_out(row: Activation) -> Any:
    return getattr(torch.ops.gradkern, row.name + "_backward").out


def schedules() -> list[tuple[emulator.Policy, int, int]]:
    policies = list(emulator.Policy)
    return [(p, 1, 4) for p in policies[:2]] + [
        (p, seed, resident)
        for p, seed, resident in itertools.product(policies[2:], (1, 2, 3), (1, 3))
    ]


CHANNELS = {"none": None, "of runs": 0, "side by side": 1}


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("spoilt", [False, True], ids=["finite", "with NaN and infinity"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_statistics_under_every_schedule(
    engine: emulator.Emulator, dtype: torch.dtype, spoilt: bool, channels: str
) -> None:
    row, dimension = TABLE["relu"], CHANNELS[channels]
    x = normal(41, 19, dtype=dtype)
    if spoilt:
        x[3, 7], x[40, 18], x[30, 0] = float("nan"), float("inf"), -float("inf")
    _core.serve_cpu_with("cpu")
    expected_y, expected_values = row.with_stats(x, dimension)
    _core.serve_cpu_with("simt")
    results = []
    for policy, seed, resident in schedules():
        with engine.configure(policy, seed, resident):
            results.append(row.with_stats(x, dimension))
    torch.testing.assert_close(results[0][1], expected_values, rtol=1e-12, atol=1e-12)
    for y, values in results:
        assert same_bits(y, expected_y)
        assert same_bits(values, results[0][1]), "bits depend on the schedule"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_passes_under_every_schedule(engine: emulator.Emulator, dtype: torch.dtype) -> None:
    row = TABLE["tanh"]
    x, grad = normal(700, dtype=dtype), normal(700, dtype=dtype, seed=1)
    for operator, tensors in passes(row):
        inputs = (grad, x)[2 - tensors :]
        want = as_tuple(operator(*inputs))
        for policy, seed, resident in schedules()[::3]:
            with engine.configure(policy, seed, resident):
                for got, first in zip(as_tuple(operator(*inputs)), want, strict=True):
                    assert same_bits(got, first)
