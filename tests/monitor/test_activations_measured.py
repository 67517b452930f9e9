"""What the monitor says of the outputs of modules, and which passes count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_training import batch, loss_of, network, train_step
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradkern
from gradkern.batch_norm import fused_activation
from gradkern.monitor import ActivationTable, MeasuresOutput, OutputStatistics
from gradkern.monitor.activations import MEASURED_ELEMENTS
from gradkern.monitor.output_samples import few_of_each_unit, unit_axis_of, whole_rows
from gradkern.monitor.recurrence import decades_per_time_step


def outputs_after(monitor: gradkern.Monitor) -> ActivationTable:
    monitor.step()
    monitor.flush()
    assert monitor.last is not None
    return monitor.last.activations


def reference(model: nn.Sequential, inputs: Tensor) -> list[Tensor]:
    values, outputs = inputs, []
    with torch.no_grad():
        for module in model:
            values = module(values)
            outputs.append(values.double())
    return outputs


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Tanh, nn.ReLU, nn.GELU])
def test_statistics_of_outputs(activation: type[nn.Module]) -> None:
    model = network(activation)
    inputs = 3 * batch()[0]
    expected = reference(model, inputs)[1::2]
    monitor = gradkern.Monitor(model)
    model(inputs).sum().backward()
    table = outputs_after(monitor)
    assert table.names == ("1", "3", "5")
    assert set(table.kinds) == {activation.__name__}
    np.testing.assert_allclose(table.stats.mean, [float(o.mean()) for o in expected], rtol=1e-5)
    np.testing.assert_allclose(
        table.stats.std, [float(o.std(correction=0)) for o in expected], rtol=1e-5
    )
    np.testing.assert_allclose(table.mean_abs, [float(o.abs().mean()) for o in expected], rtol=1e-5)
    if activation is nn.Sigmoid:
        flat = [float(((o < 0.05) | (o > 0.95)).double().mean()) for o in expected]
        slopes = [float((o * (1 - o)).mean()) for o in expected]
    elif activation is nn.Tanh:
        flat = [float((o.abs() > 0.97).double().mean()) for o in expected]
        slopes = [float((1 - o * o).mean()) for o in expected]
    elif activation is nn.ReLU:
        flat = [np.nan] * 3
        slopes = [float((o > 0).double().mean()) for o in expected]
    else:
        flat = slopes = [np.nan] * 3
    np.testing.assert_allclose(table.saturated, flat, rtol=1e-5, equal_nan=True)
    np.testing.assert_allclose(table.derivative, slopes, rtol=1e-4, equal_nan=True)


def test_alike_outputs_are_measured_in_one_go_each_for_itself() -> None:
    """Two kinds and two widths: four groups of two or three."""
    torch.manual_seed(0)
    kinds = [nn.ReLU, nn.Sigmoid, nn.ReLU, nn.Sigmoid, nn.ReLU] * 2
    widths = [16] * 5 + [12] * 5
    layers = []
    for before, after, kind in zip([8, *widths], widths, kinds, strict=False):
        layers += [nn.Linear(before, after), kind()]
    model = nn.Sequential(*layers)
    inputs = 3 * torch.randn(256, 8)
    expected = reference(model, inputs)[1::2]
    monitor = gradkern.Monitor(model)
    model(inputs).sum().backward()
    assert [len(keys) for keys, _ in monitor._activations.measurements.sampled] == [3, 2, 3, 2]
    table = outputs_after(monitor)
    assert table.kinds == tuple(kind.__name__ for kind in kinds)
    for i, (kind, values) in enumerate(zip(kinds, expected, strict=True)):
        assert table.mean_abs[i] == pytest.approx(float(values.abs().mean()), rel=1e-5)
        slope = (values > 0).double() if kind is nn.ReLU else values * (1 - values)
        assert table.derivative[i] == pytest.approx(float(slope.mean()), rel=1e-4)
        dead = float(((values > 0).sum(0) < 0.01 * len(values)).double().mean())
        assert table.dead[i] == pytest.approx(dead if kind is nn.ReLU else np.nan, nan_ok=True)
    assert np.nanmax(table.dead) > 0


def test_one_measurement_for_all_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    ours = gradkern.ops.tensor_stats
    monkeypatch.setattr(
        gradkern.ops, "tensor_stats", lambda tensors: sizes.append(len(tensors)) or ours(tensors)
    )
    model = network(depth=5)
    gradkern.Monitor(model, updates=None)
    model(batch()[0])
    assert sizes == [5]


def test_norms_and_values_per_channel() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.LayerNorm(180)
    )
    monitor = gradkern.Monitor(model)
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    table = outputs_after(monitor)
    assert table.names == ("1", "2", "4")
    assert monitor.last is not None
    assert monitor.last.values_per_channel == {"1": 2 * 6 * 6}
    assert np.isnan(table.mean_abs[0]), "norms are not sampled"


def test_in_place_activation_does_not_hide_what_it_overwrites() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True))
    monitor = gradkern.Monitor(model)
    model(batch()[0]).sum().backward()
    table = outputs_after(monitor)
    assert table.names == ("1", "2")
    assert table.stats.std[0] == pytest.approx(1, abs=0.01)
    assert table.stats.column("zeros")[0] == 0
    assert table.stats.column("zeros")[1] > 10


def test_output_that_something_else_overwrites_is_left_out() -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.GELU(), nn.GELU()

        def forward(self, inputs: Tensor) -> Tensor:
            values = self.first(inputs)
            values += 100
            return self.second(values)

    model = Overwriting()
    monitor = gradkern.Monitor(model)
    model(torch.randn(4, 4, requires_grad=True))
    assert outputs_after(monitor).names == ("second",)


def test_calls_of_one_module_are_told_apart() -> None:
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
            self.act = nn.Sigmoid()

        def forward(self, values: Tensor) -> Tensor:
            for layer in self.layers:
                values = self.act(layer(values))
            return values

    model = Stack()
    monitor = gradkern.Monitor(model)
    model(batch()[0]).sum().backward()
    assert outputs_after(monitor).names == ("act#1", "act#2", "act#3")


def test_a_model_without_activation_modules_is_watched_at_its_layers() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(16, 8), nn.Linear(8, 4)

        def forward(self, values: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(values)))

    model = Functional()
    monitor = gradkern.Monitor(model)
    model(batch()[0]).sum().backward()
    table = outputs_after(monitor)
    assert table.names == ("first", "second")
    assert np.isfinite(table.mean_abs).all()


def test_dead_units_over_several_steps() -> None:
    model = nn.Sequential(nn.Linear(16, 10), nn.ReLU())
    with torch.no_grad():
        model[0].bias[:7] = -1e6
    monitor = gradkern.Monitor(model)
    for seed in range(5):
        model(batch(64, seed=seed)[0]).sum().backward()
        monitor.step()
    monitor.flush()
    assert monitor.last is not None
    assert monitor.last.activations.dead[0] == pytest.approx(0.7)


@pytest.mark.parametrize("shape", [(6,), (6, 9), (5, 6, 9), (4, 9, 6, 5), (2, 9, 3, 4, 5)])
def test_units_of_any_shape(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.ReLU())
    monitor = gradkern.Monitor(model)
    values = torch.ones(shape, requires_grad=True)
    model(values)
    table = outputs_after(monitor)
    assert table.stats.column("count")[0] == values.numel()
    assert table.mean_abs[0] == 1
    assert table.derivative[0] == 1


def test_large_outputs_are_sampled_with_all_units() -> None:
    model = nn.Sequential(nn.ReLU())
    monitor = gradkern.Monitor(model)
    values = torch.ones(64, 300, 16, 16)
    values[:, :60] = -1
    for _ in range(8):
        model(values.requires_grad_())
        monitor.step()
    monitor.flush()
    assert monitor.last is not None
    assert monitor.last.activations.dead[0] == pytest.approx(60 / 300)


def test_of_large_outputs_whole_rows_are_measured_at_each_step_others() -> None:
    model = nn.Sequential(nn.ReLU())
    values = torch.arange(1.0, 9.0).view(8, 1, 1, 1).expand(8, 16, 64, 32)
    assert values.numel() == 4 * MEASURED_ELEMENTS
    seen = []
    with gradkern.Monitor(model) as monitor:
        for _ in range(4):
            model(values.clone().requires_grad_())
            stats = outputs_after(monitor).stats
            assert stats.column("count")[0] == MEASURED_ELEMENTS
            seen.append((stats.mean[0], stats.column("abs_max")[0]))
    assert seen == [(3, 5), (4, 6), (5, 7), (6, 8)]
    with gradkern.Monitor(model, activations="exact") as monitor:
        model(values.clone().requires_grad_())
        stats = outputs_after(monitor).stats
    assert stats.column("count")[0] == values.numel()
    assert stats.mean[0] == 4.5


@pytest.mark.parametrize(
    "shape",
    [(2**18,), (3, 2**17), (1, 4, 512, 512), (2**12, 200), (1, 2**12, 200), (1, 300, 2**12)],
)
def test_parts_of_large_outputs_have_all_units(shape: tuple[int, ...]) -> None:
    axis = unit_axis_of(torch.empty(shape), channels_second=True)
    tensor = torch.randn(shape)
    units = tensor.shape[axis] if len(shape) > 1 else 1
    for turn in range(3):
        part = whole_rows(tensor, MEASURED_ELEMENTS, axis, turn)
        assert part.numel() <= max(MEASURED_ELEMENTS, units)
        assert part.numel() >= min(MEASURED_ELEMENTS // 2, tensor.numel())
        few = few_of_each_unit(part, 2**14, axis, turn)
        assert few.dim() == tensor.dim()
        assert few.numel() <= max(2**14, units)
        if len(shape) > 1:
            assert few.shape[axis] == part.shape[axis] == units


def test_large_output_that_an_in_place_module_overwrites() -> None:
    model = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(inplace=True))
    monitor = gradkern.Monitor(model)
    model(torch.randn(8, 16, 64, 32, requires_grad=True))
    table = outputs_after(monitor)
    assert table.names == ("0", "1")
    assert table.stats.column("zeros")[0] == 0
    assert table.stats.column("zeros")[1] > 0.4 * MEASURED_ELEMENTS


# Which passes count.


def test_evaluation_and_passes_without_gradients_do_not_count() -> None:
    model = network()
    monitor = gradkern.Monitor(model)
    model.eval()
    model(batch()[0])
    model.train()
    with torch.no_grad():
        model(batch()[0])
    assert len(outputs_after(monitor)) == 0
    model(batch()[0])
    assert len(outputs_after(monitor)) == 3


def test_parts_that_are_called_alone_count_in_training_only() -> None:
    model = network()
    monitor = gradkern.Monitor(model)
    model[1](batch()[0].requires_grad_())
    with torch.no_grad():
        model[3](batch()[0])
    model[5].eval()(batch()[0].requires_grad_())
    assert outputs_after(monitor).names == ("1",)


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputed_checkpoints_count_once(reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, inputs: Tensor) -> Tensor:
            return checkpoint(self.body, inputs, use_reentrant=reentrant)

    model = Checkpointed()
    inputs = batch()[0].requires_grad_()
    calls: list[int] = []
    model.body[1].register_forward_hook(lambda *_: calls.append(1))
    monitor = gradkern.Monitor(model)
    model(inputs).sum().backward()
    table = outputs_after(monitor)
    assert len(calls) == 2, "computed twice"
    assert table.names == ("body.1", "body.3", "body.5")
    assert table.stats.column("count")[0] == 8 * 16, "counted once"


def test_micro_batches_are_taken_together() -> None:
    model = network()
    monitor = gradkern.Monitor(model)
    halves = batch(8)[0], batch(8, seed=1)[0]
    for half in halves:
        model(half).sum().backward()
    table = outputs_after(monitor)
    together = reference(model, torch.cat(halves))[1::2]
    assert table.names == ("1", "3", "5")
    np.testing.assert_allclose(table.stats.norm, [float(o.norm()) for o in together], rtol=1e-6)
    np.testing.assert_allclose(
        table.stats.column("abs_max"), [float(o.max()) for o in together], rtol=1e-6
    )


def test_a_forward_that_raises_leaves_nothing_behind() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(3, 3))
    monitor = gradkern.Monitor(model)
    with pytest.raises(RuntimeError):
        model(torch.ones(2, 5, requires_grad=True))
    model(torch.full((2, 3), 2.0, requires_grad=True))
    assert outputs_after(monitor).stats.column("sum")[0] == 12


def test_half_precision_under_autocast() -> None:
    model = network(nn.Sigmoid)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = gradkern.Monitor(model, optimizer)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model)
    loss.backward()
    optimizer.step()
    monitor.step(loss)
    monitor.flush()
    assert monitor.last is not None
    assert monitor.last.activations.stats.mean == pytest.approx([0.5] * 3, abs=0.1)


# Modules that measure themselves.


class ScaledReLU(nn.Module):
    """Has measured its output when it has computed it."""

    def __init__(self) -> None:
        super().__init__()
        self.enabled = False
        self._last: OutputStatistics | None = None

    def measure_output(self, enabled: bool) -> None:
        self.enabled = enabled

    def output_statistics(self) -> OutputStatistics | None:
        return self._last

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = 2 * torch.relu(inputs)
        if self.enabled:
            known = outputs.detach()
            self._last = OutputStatistics(
                values=gradkern.tensor_stats([known]).values[0],
                mean_abs=known.mean(),
                derivative=2 * (known > 0).float().mean(),
                active=(known > 0).sum(0).double(),
                samples=len(known),
            )
        return outputs


def forbid_an_extra_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no output may be read by hooks."""
    monkeypatch.setattr(
        "gradkern.monitor.activations.measure", lambda tensors: pytest.fail("an extra pass")
    )


def test_modules_that_measure_themselves_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(16, 16), ScaledReLU(), nn.Linear(16, 4))
    assert isinstance(model[1], MeasuresOutput)
    assert not isinstance(model[0], MeasuresOutput)
    expected = reference(model, batch(300)[0])[1]
    monitor = gradkern.Monitor(model)
    forbid_an_extra_pass(monkeypatch)
    model(batch(300)[0]).sum().backward()
    monitor.step()
    monitor.flush()
    assert monitor.last is not None
    table = monitor.last.activations
    assert table.names == ("1",)
    assert table.stats.norm[0] == pytest.approx(float(expected.norm()))
    assert table.mean_abs[0] == pytest.approx(float(expected.mean()))
    assert 0 < table.derivative[0] < 2
    assert np.isnan(table.saturated[0])
    assert table.dead[0] == float((expected.count_nonzero(0) < 3).double().mean())
    monitor.close()
    assert not model[1].enabled


def test_what_a_module_does_not_know_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScaledReLU, "output_statistics", lambda self: None)
    model = nn.Sequential(nn.Linear(16, 16), ScaledReLU())
    expected = model(batch(300)[0]).detach()
    with gradkern.Monitor(model) as monitor:
        model(batch(300)[0]).sum().backward()
        table = outputs_after(monitor)
    assert table.names == ("1",)
    assert table.stats.norm[0] == pytest.approx(float(expected.norm()))


@pytest.mark.parametrize("name", ["ReLU", "Sigmoid", "Tanh", "GELU"])
def test_gradkerns_own_activations_are_measured_in_their_own_pass(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(16, 16)
    with torch.no_grad():
        linear.bias[:4] = -100
    inputs = 3 * batch(300)[0]
    expected = getattr(nn, name)()(linear(inputs)).detach().double()
    foreign = nn.Sequential(linear, getattr(nn, name)())
    other = gradkern.Monitor(foreign)
    foreign(inputs).sum().backward()
    by_hooks = outputs_after(other)
    other.close()

    model = nn.Sequential(linear, getattr(gradkern.nn, name)())
    monitor = gradkern.Monitor(model)
    forbid_an_extra_pass(monkeypatch)
    model(inputs).sum().backward()
    table = outputs_after(monitor)
    assert table.names == ("1",)
    assert table.kinds == (name,)
    assert table.stats.norm[0] == pytest.approx(float(expected.norm()), rel=1e-5)
    assert table.stats.mean[0] == pytest.approx(float(expected.mean()), rel=1e-4, abs=1e-6)
    if name != "GELU":
        assert table.derivative[0] == pytest.approx(by_hooks.derivative[0], rel=1e-3)
    np.testing.assert_allclose(table.dead, by_hooks.dead, equal_nan=True)
    assert np.isnan(table.saturated[0]) == np.isnan(by_hooks.saturated[0])
    if name == "ReLU":
        assert table.dead[0] == 4 / 16
    monitor.close()
    assert model[1].on_stats is None
    assert model[1].channel_dim is None


@pytest.mark.parametrize("name", ["identity", "relu", "silu"])
def test_gradkerns_own_batch_norms_are_measured_in_their_own_pass(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    native = nn.BatchNorm2d(6)
    ours = gradkern.nn.BatchNorm2d(6, activation=name)
    with torch.no_grad():
        for module in (native, ours):
            module.bias[:2] = -100
    inputs, residual = torch.randn(2, 30, 6, 5, 5)
    expected = fused_activation(name)(native(inputs) + residual).detach().double()

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = ours

        def forward(self, inputs: Tensor) -> Tensor:
            output: Tensor = self.norm(inputs, residual)
            return output

    model = Block()
    monitor = gradkern.Monitor(model)
    forbid_an_extra_pass(monkeypatch)
    model(inputs).sum().backward()
    table = outputs_after(monitor)
    assert table.names == ("norm",)
    assert table.kinds == ({"identity": "BatchNorm2d", "relu": "ReLU", "silu": "SiLU"}[name],)
    assert table.stats.norm[0] == pytest.approx(float(expected.norm()), rel=1e-5)
    assert table.stats.mean[0] == pytest.approx(float(expected.mean()), rel=1e-4)
    assert np.isnan(table.saturated[0])
    if name == "identity":
        assert np.isnan(table.derivative[0])
    if name == "relu":
        assert table.derivative[0] == pytest.approx(float((expected > 0).double().mean()))
        assert table.dead[0] == 2 / 6
    else:
        assert np.isnan(table.dead[0])
    monitor.close()
    assert ours.on_stats is None
    assert not ours.measures_output


# Through time.


def test_the_probe_is_the_gradient_of_the_last_output_at_each_time_step() -> None:
    torch.manual_seed(0)
    model = nn.RNN(3, 8, batch_first=True)
    monitor = gradkern.Monitor(model)
    inputs = torch.randn(4, 20, 3)
    model(inputs)[0].sum().backward()
    monitor.step()
    monitor.flush()
    given = inputs[:1].clone().requires_grad_()
    signs = torch.ones(8)
    signs[::2] = -1
    (model(given)[0][0, -1] @ signs).backward()
    assert given.grad is not None
    expected = decades_per_time_step(given.grad[0].double().norm(dim=1).numpy())
    assert monitor.last is not None
    assert monitor.last.decades_per_time_step[""] == pytest.approx(expected, rel=1e-4)
    assert expected < -0.1


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("batch_first", [True, False])
def test_the_probe_changes_nothing(kind: type[nn.RNNBase], batch_first: bool) -> None:
    def losses(monitored: bool) -> list[float]:
        torch.manual_seed(0)
        model = kind(3, 8, num_layers=2, dropout=0.5, batch_first=batch_first)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = gradkern.Monitor(model, optimizer) if monitored else None
        values = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(torch.ones(5, 5, 3))[0].square().mean()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
            if monitor is not None:
                monitor.step(loss)
                monitor.flush()
                assert monitor.last is not None
                assert len(monitor.last.activations) == 1
        return values

    assert losses(True) == losses(False)


def test_watching_changes_no_number_of_the_training() -> None:
    def weights(monitored: bool) -> list[Tensor]:
        model = nn.Sequential(network(), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.ReLU(inplace=True))
        optimizer = torch.optim.Adam(model.parameters())
        torch.manual_seed(1)
        for seed in range(3):
            if monitored and seed == 0:
                monitor = gradkern.Monitor(model, optimizer)
            if monitored:
                train_step(model, optimizer, monitor, seed=seed)
            else:
                optimizer.zero_grad()
                loss_of(model, seed).backward()
                optimizer.step()
        return [p.detach() for p in model.parameters()]

    for ours, plain in zip(weights(True), weights(False), strict=True):
        assert torch.equal(ours, plain)
