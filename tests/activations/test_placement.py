"""Bits depend on the numbers alone: not on where they lie, nor who computes them, nor into what."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from table_rows import DTYPES, ROWS, SPECIAL, name, normal, passes, same_bits
from torch import Tensor

from gradkern.activations import TABLE, Activation


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def placed(values: Tensor, offset: int) -> Tensor:
    buffer = torch.full((values.numel() + offset + 3,), 7.0, dtype=values.dtype)
    return buffer[offset : offset + values.numel()].copy_(values)


def values_of(dtype: torch.dtype, count: int = 200) -> Tensor:
    return torch.cat(
        [torch.tensor(SPECIAL, dtype=torch.float64), normal(count, scale=4).double()]
    ).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("row", ROWS, ids=name)
def test_position_and_alignment(row: Activation, dtype: torch.dtype) -> None:
    values, grad = values_of(dtype), normal(209, dtype=dtype, seed=1)
    for operator, tensors in passes(row):
        whole = as_tuple(operator(*(grad, values)[2 - tensors :], *row.defaults()))
        for offset, start, end in ((1, 0, 209), (3, 1, 18), (5, 17, 209), (8, 200, 209), (2, 7, 8)):
            inputs = [placed(t[start:end], offset + i) for i, t in enumerate((grad, values))]
            part = as_tuple(operator(*inputs[2 - tensors :], *row.defaults()))
            for got, want in zip(part, whole, strict=True):
                assert same_bits(got, want[start:end]), f"{operator} [{start}:{end}] at {offset}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("row", ROWS, ids=name)
def test_new_in_place_and_out(row: Activation, dtype: torch.dtype) -> None:
    values = values_of(dtype)
    parameters = row.defaults()
    want = row.value(values, *parameters)
    in_place = placed(values, 1)
    row.value_(in_place, *parameters)
    assert same_bits(in_place, want)
    for offset in (0, 1):
        out = placed(torch.zeros_like(values), offset)
        row.value_out(values, *parameters, out=out)
        assert same_bits(out, want)
        assert out._base is not None
        assert (out._base[:offset] == 7).all(), "written before its beginning"
        assert (out._base[offset + out.numel() :] == 7).all(), "written beyond its end"
    itself = values.clone()
    row.value_out(itself, *parameters, out=itself)
    assert same_bits(itself, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_threads(dtype: torch.dtype) -> None:
    values, grad = normal(150_001, dtype=dtype, scale=4), normal(150_001, dtype=dtype, seed=1)
    for row in ROWS:
        for operator, tensors in passes(row):
            results = []
            for count in (1, 2):
                with threads(count):
                    inputs = (grad, values)[2 - tensors :]
                    results.append(as_tuple(operator(*inputs, *row.defaults())))
            for one, two in zip(*results, strict=True):
                assert same_bits(one, two), operator


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_outputs_larger_than_the_caches(dtype: torch.dtype) -> None:
    """Many parts, on one and on two threads, aligned, unaligned and in place."""
    size = (16 << 20) // torch.empty(0, dtype=dtype).element_size() + 12_345
    block = values_of(dtype, count=8_191)
    values = block.repeat(size // block.numel() + 1)[:size]
    rows = {"silu": "input", "sigmoid": "output"} if dtype != torch.float64 else {"relu": "output"}
    for row in (TABLE[n] for n in rows):
        grad = torch.ones_like(values)
        for operator, tensors in passes(row):
            small = as_tuple(operator(*(torch.ones_like(block), block)[2 - tensors :]))
            for count in (1, 2):
                with threads(count):
                    large = as_tuple(operator(*(grad, values)[2 - tensors :]))
                for got, want in zip(large, small, strict=True):
                    assert same_bits(got, want.repeat(size // block.numel() + 1)[:size]), operator
        aligned, unaligned = torch.empty(size, dtype=dtype), torch.empty(size + 1, dtype=dtype)[1:]
        row.value_out(values, out=aligned)
        row.value_out(values, out=unaligned)
        assert same_bits(aligned, unaligned)
        in_place = values.clone()
        row.value_(in_place)
        assert same_bits(aligned, in_place)


@pytest.mark.skipif(
    "GRADKERN_TEST_LARGE" not in os.environ, reason="9 GB: set GRADKERN_TEST_LARGE to run it"
)
def test_more_than_2_to_the_31_elements() -> None:
    size = 2**31 + 77
    values = torch.full((size,), -2.0, dtype=torch.bfloat16)
    ends = torch.tensor([-1.0, 1.5, 3.0], dtype=torch.bfloat16)
    values[-3:] = ends
    want = TABLE["relu"].value(ends)
    y, stats = TABLE["relu"].with_stats(values, None)
    assert same_bits(y[-3:], want)
    assert stats[0].item() == size
    assert not y[:-3].any()
    del y
    TABLE["relu"].value_(values)
    assert same_bits(values[-3:], want)
    assert not values[:-3].any()
