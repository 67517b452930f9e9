"""The statistics of batch normalisation's output, from the pass that writes it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from batch_norm_reference import ACTIVATIONS, DTYPES
from kernel_backend import KernelBackend
from torch import Tensor, nn

import gradkern
import gradkern.functional as G  # noqa: N812
from gradkern import batch_norm as operators
from gradkern.activations import ActivationStats
from gradkern.batch_norm import fused_activation
from gradkern.batch_norm_stats import BatchNormStats

EPS = 1e-5
SHAPES = [(5, 3, 7), (2, 3, 33, 31), (40, 1, 1), (300, 3), (9, 300), (2, 1, 40_000)]


def measured(
    input: Tensor, name: str, residual: Tensor | None = None, weight: Tensor | None = None
) -> tuple[Tensor, ActivationStats]:
    fused = fused_activation(name)
    output, mean, invstd, values = operators.training_with_stats(
        input, residual, weight, None, None, None, 0.0, EPS, fused.index, fused.parameter
    )
    plain = operators.training(
        input, residual, weight, None, None, None, 0.0, EPS, fused.index, fused.parameter
    )
    for got, want in zip((output, mean, invstd), plain, strict=True):
        assert torch.equal(got, want) or got.isnan().any()
        assert got.stride() == want.stride()
    statistics = operators.normalise_with_stats(
        input, residual, weight, None, mean, invstd, fused.index, fused.parameter
    )
    # Chunks differ where one block holds a channel.
    torch.testing.assert_close(statistics[1], values, rtol=1e-13, atol=0)
    return output, ActivationStats(values, output.numel())


def assert_says(stats: ActivationStats, output: Tensor) -> None:
    """What the output itself tells."""
    y = output.double().cpu()
    finite = y[y.isfinite()]
    columns = dict(zip(stats.columns, stats.values.cpu().tolist(), strict=False))
    assert columns["count"] == y.numel()
    assert columns["nonfinite"] == y.numel() - finite.numel()
    assert columns["zeros"] == (finite == 0).sum()
    assert columns["abs_max"] == (finite.abs().max() if finite.numel() else 0)
    size = float(finite.abs().sum())
    assert abs(columns["sum"] - float(finite.sum())) <= 1e-13 * size
    assert columns["sum_squares"] == pytest.approx(float(finite.square().sum()), rel=1e-12)


@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_the_activations_own(
    backend: KernelBackend, dtype: torch.dtype, activation: str, residual: bool
) -> None:
    for shape in ((6, 3, 5, 5), (9, 20)):
        x = torch.randn(shape).to(dtype).to(backend.device)
        r = torch.randn(shape).to(dtype).to(backend.device) if residual else None
        output, stats = measured(x, activation, r)
        assert_says(stats, output)
        if dtype not in (torch.float32, torch.float64):
            continue  # what goes into the activation is not rounded to 16 bits
        if activation == "identity":
            assert stats.saturated_fraction == 0
            assert stats.mean_abs_derivative == 1
            assert stats.active_fraction.eq(1).all()
            continue
        z, _ = measured(x, "identity", r)
        _, of_activation = getattr(G, f"{activation}_with_stats")(z, channel_dim=1)
        torch.testing.assert_close(stats.values, of_activation.values, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("channels_last", [False, True], ids=["", "channels last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_layout(
    backend: KernelBackend, dtype: torch.dtype, shape: tuple[int, ...], channels_last: bool
) -> None:
    if (channels_last and len(shape) != 4) or (math.prod(shape) > 1e4 and backend.name != "cpu"):
        return
    x = torch.randn(shape).to(dtype).to(backend.device)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    weight = torch.linspace(-2, 2, shape[1]).to(backend.device)
    output, stats = measured(x, "relu", weight=weight)
    assert_says(stats, output)
    over = [d for d in range(x.dim()) if d != 1]
    assert torch.equal(
        stats.values[len(stats.columns) :].cpu(), (output > 0).sum(over).double().cpu()
    )


@pytest.mark.parametrize("shape", [(6, 5, 3), (18, 5)], ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nonfinite_values_are_counted_and_kept_out(
    backend: KernelBackend, value: float, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape)
    x[2, 3] = value
    output, stats = measured(x.to(backend.device), "silu")
    assert_says(stats, output)
    assert stats.nonfinite == x[:, 3].numel()
    assert 0 < stats.mean_abs_derivative < 1.1


def test_extremes(backend: KernelBackend) -> None:
    x = torch.randn(8, 3, 5).to(backend.device)
    for scale in (1e-26, 1e30):
        weight = torch.full((3,), scale).to(backend.device)
        output, stats = measured(x, "identity", weight=weight)
        assert_says(stats, output)
        assert stats.std == pytest.approx(scale, rel=0.02)


def test_bits_do_not_depend_on_threads() -> None:
    threads = torch.get_num_threads()
    for shape in ((8, 64, 50, 50), (5000, 300)):
        x = torch.randn(shape)
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(measured(x, "silu")[1].values)
        torch.set_num_threads(threads)
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])


def test_nothing(backend: KernelBackend) -> None:
    for shape in ((0, 3), (4, 0), (2, 3, 0)):
        fused = fused_activation("relu")
        numbers = torch.zeros(shape[1], dtype=torch.float64).to(backend.device)
        output, values = operators.normalise_with_stats(
            torch.empty(shape).to(backend.device),
            None,
            None,
            None,
            numbers,
            numbers,
            fused.index,
            0.0,
        )
        assert output.shape == shape
        assert values.tolist() == [0.0] * (len(ActivationStats.columns) + shape[1])


def test_opcheck() -> None:
    x, numbers = torch.randn(4, 3, 5), torch.ones(3, dtype=torch.float64)
    running = torch.zeros(3), torch.ones(3)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        operators.training_with_stats,
        (x, None, None, None, *running, 0.1, EPS, 1, 0.0),
        test_utils=checks,
    )
    torch.library.opcheck(
        operators.normalise_with_stats,
        (x, None, None, None, numbers, numbers, 1, 0.0),
        test_utils=checks,
    )


def collected(layer: Any) -> list[BatchNormStats]:
    found: list[BatchNormStats] = []
    layer.on_stats = lambda module, stats: found.append(stats)
    return found


def test_modules_offer_them() -> None:
    layer = gradkern.nn.BatchNorm2d(4, activation="relu")
    twin = gradkern.nn.BatchNorm2d(4, activation="relu")
    found = collected(layer)
    x = torch.randn(3, 4, 5, 6, requires_grad=True)
    layer(x)
    assert found[0].output is None
    layer.measures_output = True
    twin(x.detach())
    output = layer(x)
    stats = found[1].output
    assert stats is not None
    assert_says(stats, output.detach())
    assert torch.equal(output, twin(x.detach()))
    assert torch.equal(layer.running_var, twin.running_var)
    (gradient,) = torch.autograd.grad(output.sum(), x)
    (of_twin,) = torch.autograd.grad(twin(x).sum(), x)
    assert torch.equal(gradient, of_twin)
    layer.eval()(x)
    assert len(found) == 2
    with torch.no_grad():
        layer.train()(x)
    assert found[2].output is not None


def test_modules_under_compile() -> None:
    layer = gradkern.nn.BatchNorm1d(6, activation="silu")
    layer.measures_output = True
    seen: list[Tensor] = []

    def keep(module: nn.Module, stats: BatchNormStats) -> None:
        assert stats.output is not None
        seen.append(stats.output.values)

    layer.on_stats = keep
    x = torch.randn(16, 6)
    layer(x)
    torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    assert torch.equal(seen[0], seen[-1])
