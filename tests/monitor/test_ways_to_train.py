"""The monitor in the training loops that people write."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from small_training import gradients, loss_of, network, total_norm, train_step
from torch import nn

import gradkern
from gradkern.monitor import StepRecord


def flushed(monitor: gradkern.Monitor) -> StepRecord:
    monitor.flush()
    assert monitor.last is not None
    return monitor.last


def true_gradients(model: nn.Module) -> list[torch.Tensor]:
    reference = copy.deepcopy(model)
    loss_of(reference).backward()
    return gradients(reference)


# Loss scales. A scale of 1024 is exact, so unscaled values are the unscaled run's.


def scaler_and_loss(model: nn.Module) -> torch.amp.GradScaler:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(loss_of(model)).backward()
    return scaler


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("way", ["step only", "unscale and clip", "monitor unscales"])
def test_grad_scaler(way: str, fused: bool) -> None:
    model = network()
    expected = true_gradients(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    monitor = gradkern.Monitor(
        model, optimizer, scaler=scaler if way == "monitor unscales" else None
    )
    scaler.scale(loss_of(model)).backward()
    if way == "unscale and clip":
        scaler.unscale_(optimizer)
    if way != "step only":
        monitor.clip_grad_norm_(0.01)
    scaler.step(optimizer)
    scaler.update()
    monitor.step(1.0)
    record = flushed(monitor)
    np.testing.assert_allclose(
        record.gradients.norm, [float(g.norm()) for g in expected], rtol=1e-5
    )
    assert record.total_norm_before == pytest.approx(total_norm(expected), rel=1e-5)
    assert record.stepped
    if way != "step only":
        assert record.total_norm_after == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("clip", [False, True])
def test_a_step_that_the_scaler_skips_is_no_alarm(fused: bool, clip: bool) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    monitor = gradkern.Monitor(model, optimizer, on_alert=None)
    scaler.scale(loss_of(model)).backward()
    assert model[0].weight.grad is not None
    model[0].weight.grad[0, 0] = torch.inf
    if clip:
        scaler.unscale_(optimizer)
        monitor.clip_grad_norm_(1.0)
    scaler.step(optimizer)
    scaler.update()
    monitor.step(1.0)
    record = flushed(monitor)
    assert not record.stepped
    assert not monitor.alerts
    train_step(model, optimizer, monitor)
    assert flushed(monitor).stepped


def test_infinite_gradients_without_a_scaler_are_an_alarm() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer, on_alert=None)
    loss_of(model).backward()
    assert model[2].weight.grad is not None
    model[2].weight.grad[0, 0] = torch.inf
    optimizer.step()
    monitor.step(1.0)
    monitor.flush()
    (alert,) = monitor.alerts
    assert (alert.rule, alert.severity, alert.layers) == ("non_finite", "error", ("2.weight",))


@pytest.mark.parametrize("scaled", [False, True])
def test_deferred_clipping(scaled: bool) -> None:
    model = network()
    expected = true_gradients(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    monitor = gradkern.Monitor(model, optimizer)
    if scaled:
        scaler = scaler_and_loss(model)
        gradkern.defer_clip_grad_norm_(optimizer, 0.01, scaler=scaler)
        scaler.step(optimizer)
    else:
        loss_of(model).backward()
        gradkern.defer_clip_grad_norm_(optimizer, 0.01)
        optimizer.step()
    monitor.step()
    record = flushed(monitor)
    assert record.total_norm_before == pytest.approx(total_norm(expected), rel=1e-5)
    assert record.total_norm_after == pytest.approx(0.01, rel=1e-3)
    assert total_norm(gradients(model)) == pytest.approx(0.01, rel=1e-3)


def test_clipping_by_something_else_after_a_measurement() -> None:
    model = network()
    expected = true_gradients(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer)
    loss_of(model).backward()
    monitor.measure_gradients()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    optimizer.step()
    monitor.step()
    record = flushed(monitor)
    assert record.total_norm_before == pytest.approx(total_norm(expected), rel=1e-5)
    assert record.total_norm_after == pytest.approx(0.01, rel=1e-3)
    assert record.clip_coefficient == pytest.approx(0.01 / total_norm(expected), rel=1e-3)


# Accumulation, several optimizers.


def test_accumulation_measures_the_sum() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer)
    for seed in range(4):
        (loss_of(model, seed) / 4).backward()
    optimizer.step()
    monitor.step()
    record = flushed(monitor)
    assert record.total_norm_before == pytest.approx(total_norm(gradients(model)), rel=1e-6)
    assert record.activations.stats.column("count")[0] == 4 * 8 * 16


def test_two_optimizers_whose_gradients_follow_each_other() -> None:
    model = nn.ModuleDict({"generator": network(), "critic": network()})
    optimizers = {n: torch.optim.SGD(m.parameters(), lr=0.1) for n, m in model.items()}
    monitor = gradkern.Monitor(model, optimizers.values())
    expected = []
    for name, part in model.items():
        for each in optimizers.values():
            each.zero_grad()
        loss_of(part).backward()
        expected += [float(g.norm()) for g in gradients(part)]
        optimizers[name].step()
    monitor.step()
    record = flushed(monitor)
    np.testing.assert_allclose(record.gradients.norm, expected, rtol=1e-6)
    assert len(record.learning_rates) == 2
    assert (record.updates.norm[record.updates.measured] > 0).all()


def test_without_an_optimizer_updates_are_those_between_steps() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model)
    for seed in range(2):
        train_step(model, optimizer, monitor, seed=seed)
    record = flushed(monitor)
    assert record.gradients.measured.all()
    assert record.stepped
    assert (record.updates.norm[record.updates.measured] > 0).any()


# Parameters of all kinds.


def test_shared_parameters_count_once() -> None:
    model = network()
    model[2].weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer)
    train_step(model, optimizer, monitor)
    record = flushed(monitor)
    assert "2.weight" not in record.gradients.names
    assert record.total_norm_before == pytest.approx(total_norm(gradients(model)), rel=1e-6)


def test_frozen_parameters_join_when_they_thaw() -> None:
    model = network()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer)
    train_step(model, optimizer, monitor)
    assert "0.weight" not in flushed(monitor).gradients.names
    model[0].requires_grad_(True)
    train_step(model, optimizer, monitor)
    record = flushed(monitor)
    assert record.gradients.names[0] == "0.weight"
    assert record.gradients.measured.all()


def test_parameters_that_are_added_later() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer)
    train_step(model, optimizer, monitor)
    flushed(monitor)
    model.append(nn.Linear(4, 4))
    optimizer.add_param_group({"params": model[-1].parameters(), "lr": 0.2})
    for seed in range(3):
        train_step(model, optimizer, monitor, seed=seed)
    record = flushed(monitor)
    assert record.gradients.names[-2:] == ("7.weight", "7.bias")
    assert record.gradients.measured.all()
    assert record.learning_rates == (0.1, 0.2)


def test_lazy_parameters() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 4))
    monitor = gradkern.Monitor(model)
    loss_of(model).backward()
    monitor.step()
    assert flushed(monitor).gradients.names[0] == "0.weight"


def test_gradients_that_are_none() -> None:
    model = nn.ModuleList([network(), nn.Linear(3, 3)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer)
    for max_norm in (None, 1.0):
        optimizer.zero_grad()
        loss_of(model[0]).backward()
        if max_norm is not None:
            monitor.clip_grad_norm_(max_norm)
        optimizer.step()
        monitor.step()
        record = flushed(monitor)
        assert list(record.gradients.measured) == [True] * 8 + [False] * 2
        assert record.total_norm_before == pytest.approx(total_norm(true_gradients(model[0])), 0.3)


def test_a_step_without_any_gradient() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer, on_alert=None)
    assert float(monitor.clip_grad_norm_(1.0)) == 0
    optimizer.step()
    monitor.step()
    record = flushed(monitor)
    assert np.isnan(record.total_norm_before)
    assert not record.gradients.measured.any()
    assert not monitor.alerts


@pytest.mark.parametrize("max_norm", [None, 0.1])
def test_sparse_embeddings(max_norm: float | None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 8, sparse=True), nn.Flatten(), nn.Linear(24, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer)
    model(torch.tensor([[1, 2, 2], [4, 1, 6]])).square().sum().backward()
    sparse = model[0].weight.grad
    assert sparse is not None
    expected = [
        float(sparse.to_dense().double().norm()),
        *(float(p.grad.double().norm()) for p in model[2].parameters() if p.grad is not None),
    ]
    if max_norm is not None:
        monitor.clip_grad_norm_(max_norm)
    optimizer.step()
    monitor.step()
    record = flushed(monitor)
    np.testing.assert_allclose(record.gradients.norm, expected, rtol=1e-5)
    assert record.total_norm_before == pytest.approx(np.linalg.norm(expected), rel=1e-5)
    if max_norm is not None:
        assert record.total_norm_after == pytest.approx(max_norm, rel=1e-4)


def test_complex_and_integer_tensors() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.phase = nn.Parameter(torch.ones(4, dtype=torch.complex64))
            self.scale = nn.Parameter(torch.ones(4))
            self.codes = nn.Parameter(torch.arange(4), requires_grad=False)

    model = Mixed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer)
    (model.phase * model.scale).abs().sum().backward()
    monitor.clip_grad_norm_(1.0)
    optimizer.step()
    monitor.step()
    assert flushed(monitor).gradients.names == ("phase", "scale")


def test_bfloat16_model() -> None:
    model = network().to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer)
    model(torch.ones(2, 16, dtype=torch.bfloat16)).square().sum().backward()
    total = monitor.clip_grad_norm_(1.0)
    optimizer.step()
    monitor.step()
    record = flushed(monitor)
    assert record.total_norm_before == pytest.approx(float(total), rel=1e-2)
    assert record.updates.measured.any()


def test_a_new_row_in_the_middle_of_a_step_is_no_update() -> None:
    model = network(width=64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer)
    loss_of(nn.Sequential(nn.Linear(16, 64), model)).backward()
    optimizer.step()
    model.append(nn.Linear(4, 4))
    monitor.step()
    assert not flushed(monitor).updates.measured.any()
