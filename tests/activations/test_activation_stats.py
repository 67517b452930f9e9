"""f_with_stats against float64 references, on the CPU and in the CUDA kernels' source."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from activation_reference import REFERENCES, in_float64, parameter_sets
from table_rows import DTYPES, ROWS, function, name, normal, same_bits
from torch import Tensor

import gradkern
from gradkern.activations import TABLE, Activation, ActivationStats

INF, NAN = math.inf, math.nan

# |f'| at its largest, where a unit counts as saturated below a twentieth of it; sigmoid and tanh
# have thresholds of their own, and the unbounded or parametrised ones those of ReLU.
STEEPEST = {"selu": 1.75809934, "gelu": 1.1289, "gelu_tanh": 1.1289, "silu": 1.0998, "mish": 1.0885}
STEEPEST |= {"hardsigmoid": 1 / 6, "hardswish": 1.5}


def is_saturated(row: Activation, y: Tensor, slope: Tensor) -> Tensor:
    if row.name == "sigmoid":
        return (y < 0.05) | (y > 0.95)
    if row.name == "tanh":
        return y.abs() > 0.97
    return slope.abs() < 0.05 * STEEPEST.get(row.name, 1.0)


def expected(
    row: Activation, x: Tensor, parameters: tuple[float, ...], channel_dim: int | None
) -> dict[str, Tensor]:
    """From the stored output, and the derivative by its reference."""
    y = row.value(x, *parameters).double()
    exact_y = torch.from_numpy(in_float64(REFERENCES[row.name].value, x, parameters).high)
    slope = torch.from_numpy(in_float64(REFERENCES[row.name].derivative, x, parameters).high)
    finite = y.isfinite()
    saturated = is_saturated(row, exact_y, slope)
    n = finite.sum()
    kept = y[finite]
    active = torch.zeros(0, dtype=torch.float64)
    if channel_dim is not None:
        others = [d for d in range(x.dim()) if d != channel_dim % x.dim()]
        active = (~saturated).sum(dim=others).double() if others else (~saturated).double()
    return {
        "mean": kept.mean(),
        "std": kept.std() if kept.numel() > 1 else torch.tensor(torch.nan).double(),
        "abs_max": kept.abs().max() if n else torch.zeros((), dtype=torch.float64),
        "zero_fraction": (kept == 0).sum() / n.double(),
        "nonfinite": (~finite).sum().double(),
        "finite": n.double(),
        "saturated_fraction": saturated[finite].sum() / n.double(),
        "mean_abs_derivative": slope[finite].abs().mean(),
        "active": active,
    }


def assert_matches(stats: ActivationStats, want: dict[str, Tensor], dtype: torch.dtype) -> None:
    # The derivatives are those of the kernels: 8 units in the last place of float32.
    slope = 1e-6 if dtype != torch.float64 else 1e-13
    for column, value in want.items():
        if column == "active":
            got = stats.values[len(stats.columns) :]
            torch.testing.assert_close(got, value, rtol=0, atol=0)
            assert torch.equal(stats.never_active, value == 0)
            if len(value):
                size = stats.numel / len(value)
                torch.testing.assert_close(stats.active_fraction, value / size)
            continue
        rtol = slope if column == "mean_abs_derivative" else 1e-12
        torch.testing.assert_close(
            getattr(stats, column), value, rtol=rtol, atol=1e-13, equal_nan=True, msg=column
        )


def away_from_thresholds(row: Activation, x: Tensor, parameters: tuple[float, ...]) -> Tensor:
    """Zero in place of what may be counted either way by the last bits of the arithmetic."""
    y = torch.from_numpy(in_float64(REFERENCES[row.name].value, x, parameters).high)
    slope = torch.from_numpy(in_float64(REFERENCES[row.name].derivative, x, parameters).high)
    margins = [(slope.abs() - 0.05 * STEEPEST.get(row.name, 1.0)).abs()]
    if row.name in ("sigmoid", "tanh"):
        margins = [(y.abs() - t).abs() for t in (0.05, 0.95, 0.97)]
    close = torch.stack(margins).amin(0) < 1e-5
    return torch.where(close, torch.zeros_like(x), x)


SHAPES: dict[str, tuple[tuple[int, ...], int | None]] = {
    "no channels": ((700,), None),
    "N x C": ((41, 19), 1),
    "N x C, from the end": ((41, 19), -1),
    "NCHW": ((3, 5, 4, 9), 1),
    "the outermost": ((6, 50), 0),
    "the last of three": ((4, 7, 21), 2),
    "one channel": ((30, 1, 5), 1),
    "as many channels as elements": ((300,), 0),
    "one element": ((1,), 0),
    "0-dimensional": ((), None),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("row", ROWS, ids=name)
def test_statistics(backend: Any, row: Activation, shape: str) -> None:
    sizes, channel_dim = SHAPES[shape]
    dtype = DTYPES[(row.index + list(SHAPES).index(shape)) % len(DTYPES)]
    parameters = row.defaults()
    x = away_from_thresholds(row, normal(*sizes, dtype=dtype, scale=3, seed=row.index), parameters)
    y, stats = function(row, "_with_stats")(x.to(backend.device), channel_dim=channel_dim)
    assert same_bits(y.cpu(), row.value(x.to(backend.device), *parameters).cpu())
    assert stats.numel == x.numel()
    assert stats.values.device.type == backend.device.type
    assert_matches(stats, expected(row, x, parameters, channel_dim), dtype)


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_other_parameters(row: Activation) -> None:
    for parameters in parameter_sets(row)[1:]:
        x = away_from_thresholds(row, normal(200, scale=3), parameters)
        _, stats = function(row, "_with_stats")(x, *parameters)
        assert_matches(stats, expected(row, x, parameters, None), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "row", [TABLE[n] for n in ("relu", "gelu", "tanh", "squared_relu")], ids=name
)
def test_non_finite_values_are_counted_and_kept_out(
    backend: Any, row: Activation, dtype: torch.dtype
) -> None:
    x = away_from_thresholds(row, normal(50, 21, dtype=dtype, scale=3), ())
    x[3, 5], x[20, 1], x[49, 20], x[0, 0], x[7] = NAN, INF, -INF, NAN, NAN
    x[8] = 0
    y, stats = function(row, "_with_stats")(x.to(backend.device))
    assert same_bits(y.cpu(), row.value(x.to(backend.device)).cpu())
    assert_matches(stats, expected(row, x, (), None), dtype)


def test_nothing_finite_and_nothing_at_all(backend: Any) -> None:
    _, stats = gradkern.functional.relu_with_stats(torch.full((5,), NAN, device=backend.device))
    assert stats.nonfinite.item() == 5
    assert math.isnan(stats.mean.item())
    assert stats.abs_max.item() == 0
    for shape, channel_dim, channels in (((0,), None, 0), ((0, 3), 1, 3), ((3, 0), 0, 3)):
        y, stats = gradkern.functional.silu_with_stats(
            torch.empty(shape, device=backend.device), channel_dim=channel_dim
        )
        assert y.shape == shape
        assert stats.channels == channels
        assert stats.values.tolist() == [0] * (8 + channels)
        stats.to_dict()


@pytest.mark.parametrize("row", [TABLE["relu"], TABLE["sigmoid"]], ids=name)
def test_layouts(backend: Any, row: Activation) -> None:
    x = away_from_thresholds(row, normal(3, 5, 4, 6, scale=3), ())
    last = x.to(memory_format=torch.channels_last)
    for laid_out in (
        x,
        last,
        x.transpose(0, 3).contiguous().transpose(0, 3),
        x.repeat(1, 1, 1, 2)[..., :6],
    ):
        for channel_dim in (0, 1, 2, 3, -1, -4):
            y, stats = function(row, "_with_stats")(
                laid_out.to(backend.device), channel_dim=channel_dim
            )
            assert y.stride() == torch.empty_like(laid_out).stride()
            assert_matches(stats, expected(row, x, (), channel_dim), torch.float32)


@pytest.mark.parametrize("inner", [1, 3])
def test_many_channels(inner: int) -> None:
    row = TABLE["relu"]
    x = normal(2, 70_001, inner)
    _, stats = function(row, "_with_stats")(x, channel_dim=1)
    assert_matches(stats, expected(row, x, (), 1), torch.float32)


def test_many_channels_in_cuda_source(simt: None) -> None:
    """More than a block counts in shared memory."""
    row = TABLE["relu"]
    x = normal(2, 3000)
    _, stats = function(row, "_with_stats")(x, channel_dim=1)
    assert_matches(stats, expected(row, x, (), 1), torch.float32)


@pytest.fixture
def simt(simt_library: None) -> Iterator[None]:
    gradkern._core.serve_cpu_with("simt")
    yield
    gradkern._core.serve_cpu_with("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bits_do_not_depend_on_threads_or_alignment(dtype: torch.dtype) -> None:
    before = torch.get_num_threads()
    x = normal(64, 3000, dtype=dtype, scale=3)
    x[5, 7] = NAN
    buffer = torch.empty(x.numel() + 3, dtype=dtype)
    unaligned = buffer[3:].view(64, 3000).copy_(x)
    for row in (TABLE["relu"], TABLE["gelu"]):
        for channel_dim in (None, 0, 1):
            results = []
            for count, input in ((1, x), (2, x), (2, unaligned)):
                torch.set_num_threads(count)
                try:
                    results.append(row.with_stats(input, channel_dim))
                finally:
                    torch.set_num_threads(before)
            for y, values in results[1:]:
                assert same_bits(y, results[0][0])
                assert same_bits(values, results[0][1])


def test_large_values_do_not_overflow() -> None:
    for dtype, large in ((torch.float32, 3e38), (torch.bfloat16, 3e38), (torch.float16, 6e4)):
        x = torch.full((1000,), large, dtype=dtype)
        x[::2] *= -1
        _, stats = gradkern.functional.leaky_relu_with_stats(x, 1.0)
        assert stats.mean.item() == 0
        assert stats.abs_max.item() == x[0].double().abs().item()
        np.testing.assert_allclose(stats.std.item(), x.double().std().item(), rtol=1e-12)
        small = torch.full((1000,), torch.finfo(dtype).tiny, dtype=dtype)
        assert gradkern.functional.relu_with_stats(small)[1].mean.item() == torch.finfo(dtype).tiny


def test_to_dict_and_repr() -> None:
    _, stats = gradkern.functional.relu_with_stats(
        torch.tensor([[-1.0, 2.0], [-3.0, 4.0]]), channel_dim=1
    )
    assert stats.to_dict() == {
        "mean": 1.5,
        "std": pytest.approx(math.sqrt(11 / 3)),
        "abs_max": 4.0,
        "zero_fraction": 0.5,
        "nonfinite": 0.0,
        "saturated_fraction": 0.5,
        "mean_abs_derivative": 0.5,
        "never_active": 1.0,
    }
    assert stats.never_active.tolist() == [True, False]
    assert "numel=4, channels=2" in repr(stats)
    _, one = gradkern.functional.relu_with_stats(torch.ones(1))
    assert math.isnan(one.std.item())


def test_shards_can_be_added() -> None:
    x = normal(100, 6)
    whole = gradkern.functional.tanh_with_stats(x, channel_dim=1)[1].values
    parts = [gradkern.functional.tanh_with_stats(p, channel_dim=1)[1].values for p in x.split(30)]
    largest = ActivationStats.columns.index("abs_max")
    total = torch.stack(parts).sum(0)
    total[largest] = torch.stack(parts)[:, largest].max()
    torch.testing.assert_close(total, whole, rtol=1e-13, atol=0)


def test_errors() -> None:
    for channel_dim in (2, -3):
        with pytest.raises(
            IndexError, match=rf"channel_dim is {channel_dim}; it must be in \[-2, 1\]"
        ):
            gradkern.functional.relu_with_stats(torch.ones(2, 3), channel_dim=channel_dim)
    with pytest.raises(IndexError):
        gradkern.functional.relu_with_stats(torch.ones(()), channel_dim=0)
    with pytest.raises(TypeError, match="input is a int; it must be a tensor"):
        gradkern.functional.relu_with_stats(3)
    with pytest.raises(NotImplementedError, match="no kernels"):
        gradkern.functional.relu_with_stats(torch.ones(3, dtype=torch.int32))
    assert gradkern.functional.relu_with_stats(torch.ones(2, device="meta"), 0)[1].values.is_meta
