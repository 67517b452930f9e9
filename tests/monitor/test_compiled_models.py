"""The monitor and torch.compile: hooks are traced, or it is noticed that they are missed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from small_training import batch, network, train_step
from torch import nn

import gradkern


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()


def statistics(compiled: bool, activation: type[nn.Module]) -> gradkern.monitor.StepRecord:
    model = nn.Sequential(network(activation), nn.LayerNorm(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer)
    called = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    for seed in range(3):
        train_step(called, optimizer, monitor, max_norm=0.1, seed=seed)
    monitor.flush()
    assert monitor.last is not None
    return monitor.last


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_a_model_that_is_compiled_after_the_monitor_was_made(activation: type[nn.Module]) -> None:
    ours, eager = statistics(True, activation), statistics(False, activation)
    assert ours.activations.names == eager.activations.names == ("0.1", "0.3", "0.5", "1")
    np.testing.assert_allclose(
        ours.activations.stats.values, eager.activations.stats.values, rtol=1e-5
    )
    np.testing.assert_allclose(ours.activations.mean_abs, eager.activations.mean_abs, rtol=1e-4)
    np.testing.assert_allclose(ours.activations.derivative, eager.activations.derivative, rtol=1e-4)
    np.testing.assert_allclose(ours.gradients.norm, eager.gradients.norm, rtol=1e-4)
    assert ours.total_norm_after == pytest.approx(0.1, rel=1e-3)


def test_gradkerns_own_modules_in_a_compiled_model() -> None:
    def sums(compiled: bool) -> np.ndarray:
        torch.manual_seed(0)
        norm = gradkern.nn.BatchNorm1d(16, activation="silu")
        model = nn.Sequential(nn.Linear(16, 16), norm, nn.Linear(16, 4), gradkern.nn.ReLU())
        monitor = gradkern.Monitor(model)
        called = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
        for _ in range(2):
            called(batch()[0]).square().sum().backward()
            monitor.step()
        monitor.flush()
        assert monitor.last is not None
        assert monitor.last.activations.names == ("1", "3")
        columns = [monitor.last.activations.stats.column(n) for n in ("count", "sum", "abs_max")]
        return np.stack(columns)

    np.testing.assert_allclose(sums(True), sums(False), rtol=1e-4)


def test_evaluation_of_a_compiled_model_does_not_count() -> None:
    model = network()
    monitor = gradkern.Monitor(model)
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        compiled(batch()[0])
    compiled.eval()
    compiled(batch()[0])
    monitor.step()
    monitor.flush()
    assert monitor.last is not None
    assert len(monitor.last.activations) == 0


@pytest.mark.parametrize("part", ["all", "a part"])
def test_hooks_that_compiled_code_swallows_are_noticed(part: str) -> None:
    body: nn.Module = network()
    called: nn.Module
    if part == "all":
        called = torch.compile(nn.Sequential(body, nn.ReLU()), backend="aot_eager")
    else:
        called = nn.Sequential(torch.compile(body, backend="aot_eager"), nn.ReLU())
    called(batch()[0])
    optimizer = torch.optim.SGD(called.parameters(), lr=0.1)
    monitor = gradkern.Monitor(called, optimizer)
    train_step(called, optimizer, monitor)
    with pytest.raises(RuntimeError, match=r"before the first call.*torch\.compiler\.reset"):
        train_step(called, optimizer, monitor)


# Dynamo looks at `.grad` of what goes into a hook that it compiles by itself.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("part", ["all", "a part"])
def test_modules_compiled_in_place_call_hooks_that_come_later(part: str) -> None:
    model = nn.Sequential(network(), nn.ReLU())
    (model if part == "all" else model[0]).compile(backend="aot_eager")
    model(batch()[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer)
    for seed in range(3):
        train_step(model, optimizer, monitor, seed=seed)
    monitor.flush()
    assert monitor.last is not None
    assert monitor.last.activations.names == ("0.1", "0.3", "0.5", "1")


def test_the_remedies_that_the_message_names_work() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    compiled = torch.compile(model, backend="aot_eager")
    compiled(batch()[0])
    without = gradkern.Monitor(compiled, optimizer, activations=None)
    after_reset = gradkern.Monitor(compiled, optimizer)
    torch.compiler.reset()
    for seed in range(3):
        optimizer.zero_grad()
        compiled(batch(seed=seed)[0]).sum().backward()
        optimizer.step()
        without.step()
        after_reset.step()
    after_reset.flush()
    assert after_reset.last is not None
    assert len(after_reset.last.activations) == 3


def test_modules_that_are_not_called_are_no_mistake() -> None:
    model = nn.ModuleList([network(), nn.ReLU()])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.compile(lambda x: x + 1, backend="aot_eager")(torch.ones(2))
    monitor = gradkern.Monitor(model, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        model[0](batch()[0]).sum().backward()
        optimizer.step()
        monitor.step()
    monitor.flush()
    assert monitor.last is not None
    assert monitor.last.step == 3


def test_a_model_that_is_trained_in_evaluation_mode_is_no_mistake() -> None:
    model = network().eval()  # as is done to keep batch norms as they are
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.compile(lambda x: x + 1, backend="aot_eager")(torch.ones(2))
    monitor = gradkern.Monitor(model, optimizer)
    for seed in range(3):
        train_step(model, optimizer, monitor, seed=seed)
    monitor.flush()


def test_large_outputs_of_compiled_code_are_compiled_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    monitor = gradkern.Monitor(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for _ in range(4):
        compiled(torch.randn(2**16, 4)).sum().backward()
        monitor.step()
    monitor.flush()
    assert monitor.last is not None
    assert monitor.last.activations.stats.column("count")[0] == 2**16
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_names_of_a_compiled_model_are_the_users() -> None:
    compiled = torch.compile(network(), backend="aot_eager")
    monitor = gradkern.Monitor(compiled)
    compiled(batch()[0]).sum().backward()
    monitor.step()
    monitor.flush()
    assert monitor.last is not None
    assert monitor.last.gradients.names[0] == "0.weight"
