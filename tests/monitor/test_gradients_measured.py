"""What the monitor says of gradients, updates and totals, against torch in float64."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_training import batch, gradients, loss_of, network, total_norm, train_step
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import gradkern
from gradkern.monitor import StepRecord
from gradkern.monitor.record import LEAST_SAMPLES
from gradkern.monitor.updates import ELEMENTS_PER_TENSOR, UpdateMeter, sample_sizes


def flushed(monitor: gradkern.Monitor) -> StepRecord:
    monitor.flush()
    assert monitor.last is not None
    return monitor.last


@pytest.mark.parametrize("max_norm", [None, 1e-3, 1e3])
def test_gradients_totals_and_coefficient(max_norm: float | None) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reference = copy.deepcopy(model)
    loss_of(reference).backward()
    expected = gradients(reference)
    monitor = gradkern.Monitor(model, optimizer)
    loss = train_step(model, optimizer, monitor, max_norm)
    record = flushed(monitor)
    assert record.step == 1
    assert record.loss == pytest.approx(float(loss))
    assert record.learning_rates == (0.1,)
    assert record.gradients.names == tuple(n for n, _ in model.named_parameters())
    np.testing.assert_allclose(
        record.gradients.norm, [float(g.norm()) for g in expected], rtol=1e-6
    )
    np.testing.assert_allclose(
        record.gradients.column("abs_max"), [float(g.abs().max()) for g in expected], rtol=1e-6
    )
    before = total_norm(expected)
    after = total_norm(gradients(model))
    assert record.total_norm_before == pytest.approx(before, rel=1e-6)
    assert record.total_norm_after == pytest.approx(after, rel=1e-5)
    assert record.clip_coefficient == pytest.approx(after / before, rel=1e-5)
    parameters = [p.detach().double() for p in model.parameters()]
    np.testing.assert_allclose(
        record.parameters.norm, [float(p.norm()) for p in parameters], rtol=1e-6
    )


def test_norms_that_float32_loses() -> None:
    model = nn.Linear(1000, 1, bias=False)
    monitor = gradkern.Monitor(model, activations=None)  # nothing runs the model
    model.weight.grad = torch.full_like(model.weight, 1e-30)
    monitor.step()
    assert flushed(monitor).total_norm_before == pytest.approx(1e-30 * math.sqrt(1000))
    model.weight.grad = torch.full_like(model.weight, 1e25)
    monitor.step()
    assert flushed(monitor).total_norm_before == pytest.approx(1e25 * math.sqrt(1000))


def rounding(model: nn.Module) -> NDArray[np.float64]:
    """By how much each float32 weight rounds what a step adds to it, at most."""
    return np.array([2.0**-24 * float(p.detach().abs().max()) for p in model.parameters()])


def assert_updates_are(expected: list[float], norms: NDArray[np.float64], model: nn.Module) -> None:
    numels = np.array([p.numel() for p in model.parameters()])
    # And of the step itself, learning rate times gradient in float32.
    allowed = rounding(model) * np.sqrt(numels) + 1e-6 * np.array(expected)
    assert (np.abs(norms - expected) <= allowed).all()


def test_exact_updates_are_what_the_step_did() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer, updates="exact")
    train_step(model, optimizer, monitor)
    record = flushed(monitor)
    expected = [0.1 * float(g.norm()) for g in gradients(model)]
    assert_updates_are(expected, record.updates.norm, model)
    assert list(record.updates.column("count")) == [p.numel() for p in model.parameters()]
    weights = [p.detach() for p in model.parameters()]
    ratios = [
        0.1 * float(g.std(correction=0)) / float(w.double().std(correction=0))
        for g, w in zip(gradients(model), weights, strict=True)
    ]
    allowed = rounding(model) / [float(w.double().std(correction=0)) for w in weights]
    assert (np.abs(record.update_ratio - ratios) <= allowed + 1e-6 * np.array(ratios)).all()


def test_sampled_updates_estimate_the_exact_ones() -> None:
    model = network(width=256, depth=4)
    inputs = torch.randn(64, 256)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    exact = gradkern.Monitor(model, optimizer, updates="exact", activations=None)
    sampled = gradkern.Monitor(model, optimizer, activations=None)
    model(inputs).square().mean().backward()
    optimizer.step()
    exact.step()
    sampled.step()
    of_sample, of_all = flushed(sampled), flushed(exact)
    assert of_sample.updates.column("count").sum() <= 0.005 * sum(
        p.numel() for p in model.parameters()
    )
    matrices = [i for i, p in enumerate(model.parameters()) if p.dim() == 2 and p.shape[0] > 4]
    ratio = of_sample.update_ratio[matrices] / of_all.update_ratio[matrices]
    assert (abs(np.log10(ratio)) < 0.3).all()


def test_sample_sizes_keep_both_limits() -> None:
    gpt2 = [38_597_376, 786_432, *[768, 2304, 1_769_472, 589_824, 2_359_296, 3072] * 12]
    sizes = sample_sizes(gpt2)
    assert max(sizes) <= ELEMENTS_PER_TENSOR
    assert sum(sizes) <= 0.005 * sum(gpt2)
    assert min(sizes) > 0
    assert sample_sizes([10**9]) == [4096]
    assert sample_sizes([]) == []
    assert sample_sizes([1, 2]) == [0, 0]


def test_samples_of_a_small_model_are_its_weights() -> None:
    """Two elements of each parameter would say nothing of any."""
    layers = 12 * [1024, 32] + [128, 4]  # weight, bias
    sizes = sample_sizes(layers)
    assert sum(sizes) <= 0.005 * sum(layers)
    assert min(sizes[::2]) >= LEAST_SAMPLES
    assert all(size == 0 or size >= LEAST_SAMPLES for size in sizes)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "strided"])
def test_samples_reach_all_columns_of_any_layout(layout: str) -> None:
    weight = torch.zeros(32, 16, 8, 8)
    weight = {
        "contiguous": weight,
        "channels_last": weight.to(memory_format=torch.channels_last),
        "transposed": weight.transpose(0, 1),
        "strided": torch.zeros(64, 16, 8, 8)[::2],
    }[layout]
    parameter = nn.Parameter(weight)
    others = nn.Parameter(torch.zeros(200_000))
    meter = UpdateMeter()
    meter.remember([parameter, others])
    with torch.no_grad():
        parameter += 0.5
    [(indices, moved, excess)] = meter.measure([parameter, others])
    assert indices == [0, 1]
    assert moved[0, 1] == 0.5 * moved[0, 0]
    assert moved[1, 1] == 0
    assert excess[0, 5] == 0, "all have moved"
    assert excess[1, 5] == excess[1, 0], "none has moved"


def test_samples_fall_into_all_columns() -> None:
    columns = 64
    parameter = nn.Parameter(torch.zeros(3200, columns))
    meter = UpdateMeter()
    meter.remember([parameter])
    with torch.no_grad():
        parameter += torch.arange(columns)
    [(_, moved, _)] = meter.measure([parameter])
    assert float(moved[0, 1] / moved[0, 0]) == pytest.approx((columns - 1) / 2, rel=0.1)


def test_unchanged_weights_are_told_from_changed() -> None:
    model = network(width=64)
    optimizer = torch.optim.SGD([{"params": model[0].parameters()}], lr=0.1)
    monitor = gradkern.Monitor(model, optimizer)
    model(torch.ones(4, 64)).square().sum().backward()
    optimizer.step()
    monitor.step()
    record = flushed(monitor)
    unchanged = dict(zip(record.updates.names, record.unchanged, strict=True))
    assert not unchanged["0.weight"]
    assert unchanged["2.weight"]


def test_learning_rates_of_all_groups_also_as_tensors() -> None:
    model = network()
    optimizers = [
        torch.optim.SGD([{"params": model[0].parameters(), "lr": 0.5}], lr=0.1),
        torch.optim.Adam(model[2].parameters(), lr=torch.tensor(0.25)),
    ]
    monitor = gradkern.Monitor(model, optimizers)
    loss_of(model).backward()
    for optimizer in optimizers:
        optimizer.step()
    monitor.step(1.5)
    record = flushed(monitor)
    assert record.learning_rates == (0.5, 0.25)
    assert record.loss == 1.5


class _NoNumbersOnTheHost(TorchDispatchMode):
    """Fails where a tensor becomes a Python number, or its shape depends on its values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero")
        assert not any(name in str(func) for name in waits), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_measuring_takes_no_number_to_the_host(max_norm: float | None) -> None:
    model = nn.Sequential(network(nn.Tanh), nn.BatchNorm1d(4), nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    monitor = gradkern.Monitor(model, optimizer)
    with _NoNumbersOnTheHost():
        for _ in range(3):
            train_step(model, optimizer, monitor, max_norm)
    assert flushed(monitor).step == 3


def test_the_check_for_waiting_finds_it() -> None:
    with pytest.raises(AssertionError, match="waits"), _NoNumbersOnTheHost():
        torch.ones(1).sum().item()


def test_a_step_is_judged_at_the_next_one_at_the_earliest() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer)
    train_step(model, optimizer, monitor)
    assert monitor.last is None
    train_step(model, optimizer, monitor)
    assert monitor.last is not None
    assert monitor.last.step == 1
    monitor.flush()
    assert monitor.last.step == 2


def test_numbers_that_have_not_arrived_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer)
    monkeypatch.setattr(gradkern.monitor.host_copy.HostCopy, "arrived", False)
    for _ in range(4):
        train_step(model, optimizer, monitor)
    assert monitor.last is None
    assert flushed(monitor).step == 4


def test_every_nth_step() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps: list[int] = []
    monitor = gradkern.Monitor(model, optimizer, every=3)
    for seed in range(8):
        train_step(model, optimizer, monitor, 1.0, seed)
        monitor.flush()
        assert monitor.last is not None
        steps.append(monitor.last.step)
        if seed % 3 == 0:
            assert len(monitor.last.activations) == 3
            assert monitor.last.gradients.measured.all()
            assert monitor.last.updates.measured.any()
    assert steps == [1, 1, 1, 4, 4, 4, 7, 7]


def test_include_and_exclude() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer, include=["0.*", "2.*", "1", "3"], exclude="*.bias")
    train_step(model, optimizer, monitor, 1.0)
    record = flushed(monitor)
    assert record.gradients.names == ("0.weight", "2.weight")
    assert record.activations.names == ("1", "3")
    assert record.total_norm_after == pytest.approx(min(1.0, record.total_norm_before), rel=1e-4)
    assert record.total_norm_before > float(np.linalg.norm(record.gradients.norm))


def test_close_removes_every_hook() -> None:
    model = nn.Sequential(network(), nn.ReLU(inplace=True), nn.RNN(4, 4, batch_first=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def hooks() -> int:
        return (
            sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
            + len(optimizer._optimizer_step_pre_hooks)
            + len(optimizer._optimizer_step_post_hooks)
        )

    assert hooks() == 0
    with gradkern.Monitor(model, optimizer) as monitor:
        assert hooks() > 4
    assert hooks() == 0
    monitor.close()
    with pytest.raises(RuntimeError, match="closed"):
        monitor.step()


def test_the_context_manager_closes_after_an_error() -> None:
    model = network()
    with pytest.raises(KeyError), gradkern.Monitor(model):
        raise KeyError
    assert not any(m._forward_hooks for m in model.modules())


def test_clipping_through_the_monitor_is_clipping() -> None:
    model, other = network(), network()
    loss_of(model).backward()
    loss_of(other).backward()
    total = gradkern.Monitor(model).clip_grad_norm_(0.01)
    expected = gradkern.clip_grad_norm_(other.parameters(), 0.01)
    assert torch.equal(total, expected)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)


def test_error_if_nonfinite_leaves_gradients() -> None:
    model = network()
    loss_of(model).backward()
    assert model[0].weight.grad is not None
    model[0].weight.grad[0, 0] = torch.nan
    before = gradients(model)
    with pytest.raises(RuntimeError, match="non-finite"):
        gradkern.Monitor(model).clip_grad_norm_(1.0, error_if_nonfinite=True)
    for was, now in zip(before, gradients(model), strict=True):
        torch.testing.assert_close(was, now, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": 3}, TypeError, "model is a int; it must be"),
        ({"optimizer": [3]}, TypeError, "optimizer has a int; it must be"),
        ({"every": 0}, ValueError, "every is 0; it must be"),
        ({"max_history": 1}, ValueError, "max_history is 1; it must be"),
        ({"updates": "some"}, ValueError, "updates is 'some'; it must be"),
        ({"activations": True}, ValueError, "activations is True; it must be"),
        ({"on_alert": "shout"}, TypeError, "on_alert is 'shout'; it must be"),
        ({"rules": {"no_such": False}}, ValueError, "no_such.*must be among"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gradkern.Monitor(**({"model": network()} | arguments))  # type: ignore[arg-type]


def test_bad_loss() -> None:
    monitor = gradkern.Monitor(network())
    with pytest.raises(TypeError, match=r"loss has shape \(2,\); it must be one number"):
        monitor.step(torch.zeros(2))
    with pytest.raises(TypeError, match="loss is a str; it must be"):
        monitor.step("low")  # type: ignore[arg-type]


def test_lbfgs_with_a_closure() -> None:
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)
    monitor = gradkern.Monitor(model, optimizer)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    monitor.step(loss)
    record = flushed(monitor)
    assert record.total_norm_before == pytest.approx(total_norm(gradients(model)), rel=1e-6)
    assert record.stepped
    assert len(batch()) == 2


def test_samples_follow_parameters_that_move_in_memory() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer, updates="exact")
    for step in range(4):
        if step == 2:
            for parameter in model.parameters():
                parameter.data = parameter.data.clone()
        train_step(model, optimizer, monitor, seed=step)
        expected = [0.1 * float(g.norm()) for g in gradients(model)]
        assert_updates_are(expected, flushed(monitor).updates.norm, model)
