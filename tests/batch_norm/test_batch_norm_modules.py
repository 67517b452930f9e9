"""gradkern.nn.BatchNorm1d, 2d, 3d beside torch's."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import gradkern
from gradkern.batch_norm_stats import BatchNormStats

PAIRS = [
    (gradkern.nn.BatchNorm1d, nn.BatchNorm1d, (9, 4)),
    (gradkern.nn.BatchNorm1d, nn.BatchNorm1d, (3, 4, 5)),
    (gradkern.nn.BatchNorm2d, nn.BatchNorm2d, (3, 4, 5, 2)),
    (gradkern.nn.BatchNorm3d, nn.BatchNorm3d, (3, 4, 2, 2, 2)),
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": None},
    {"momentum": 0.3, "eps": 1e-3},
    {"affine": False},
    {"track_running_stats": False},
    {"dtype": torch.float64},
]


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    ("ours", "native", "shape"), PAIRS, ids=lambda p: getattr(p, "__name__", "")
)
def test_drop_in(ours: Any, native: Any, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    mine, theirs = ours(4, **options), native(4, **options)
    assert repr(mine) == repr(theirs)
    assert isinstance(mine, native)
    for step in range(3):
        torch.manual_seed(step)
        x = torch.randn(shape, dtype=options.get("dtype", torch.float32)) + step
        if step == 2:
            mine.eval()
            theirs.eval()
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, z = mine(a), theirs(b)
        close(y, z)
        g = torch.randn_like(y)
        y.backward(g)
        z.backward(g)
        close(a.grad, b.grad)  # type: ignore[arg-type]
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        close(mine.state_dict()[name], value)
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        close(p.grad, q.grad)  # type: ignore[arg-type]
    theirs.load_state_dict(mine.state_dict())
    mine.load_state_dict(theirs.state_dict())


@pytest.mark.filterwarnings("ignore:batch normalisation of")
@pytest.mark.parametrize("name", ["nn.BatchNorm1d", "nn.BatchNorm2d", "nn.BatchNorm3d"])
def test_torchs_own_module_inputs(name: str) -> None:
    (info,) = [i for i in module_db if i.name == name]
    cls = getattr(gradkern.nn, name.removeprefix("nn."))
    seen = 0
    for training in (True, False):
        inputs = info.module_inputs_func(
            info, device="cpu", dtype=torch.float64, requires_grad=True, training=training
        )
        for given in inputs:
            arguments, keywords = given.constructor_input.args, given.constructor_input.kwargs
            mine, theirs = cls(*arguments, **keywords), info.module_cls(*arguments, **keywords)
            mine.double().train(training)
            theirs.double().train(training)
            x = given.forward_input.args[0]
            y, z = mine(x), theirs(x)
            torch.testing.assert_close(y, z)
            g = torch.randn_like(y)
            (got,) = torch.autograd.grad(y, x, g)
            (want,) = torch.autograd.grad(z, x, g)
            torch.testing.assert_close(got, want)
            seen += 1
    assert seen >= 6


def test_torchs_own_samples() -> None:
    info = next(i for i in op_db if i.name == "nn.functional.batch_norm")
    seen = 0
    for sample in info.sample_inputs("cpu", torch.float64, requires_grad=True):
        twin = copy.deepcopy((sample.args, sample.kwargs))
        want = info.op(sample.input, *sample.args, **sample.kwargs)
        got = gradkern.functional.batch_norm(sample.input, *twin[0], **twin[1])
        torch.testing.assert_close(got, want)
        seen += 1
    assert seen >= 5


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "silu", "gelu"])
def test_activation_and_residual(activation: str) -> None:
    layer = gradkern.nn.BatchNorm2d(3, activation=activation)
    assert f"activation={activation}" in repr(layer)
    x, residual = torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5)
    plain = nn.BatchNorm2d(3)
    function = getattr(nn.functional, activation)
    close(layer(x, residual), function(plain(x) + residual))
    close(layer(x), function(plain(x)))


def test_parameter_of_the_activation() -> None:
    layer = gradkern.nn.BatchNorm1d(3, activation="leaky_relu", activation_parameter=0.5)
    x = torch.randn(10, 3)
    close(layer(x), nn.functional.leaky_relu(nn.BatchNorm1d(3)(x), 0.5))
    with pytest.raises(ValueError, match="activation is 'tanh'"):
        gradkern.nn.BatchNorm1d(3, activation="tanh")


def test_copies_and_pickles() -> None:
    layer = gradkern.nn.BatchNorm1d(3, activation="elu", activation_parameter=0.3)
    layer(torch.randn(10, 3))
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        x = torch.randn(10, 3)
        layer.eval()
        twin.eval()
        assert torch.equal(twin(x), layer(x))


def test_frozen_statistics_for_transfer_learning() -> None:
    layer = gradkern.nn.BatchNorm2d(2, activation="relu").eval()
    x = torch.randn(3, 2, 4, 4, requires_grad=True)
    layer(x).sum().backward()
    plain = nn.BatchNorm2d(2).eval()
    other = x.detach().clone().requires_grad_()
    plain(other).relu().sum().backward()
    close(x.grad, other.grad)  # type: ignore[arg-type]
    close(layer.weight.grad, plain.weight.grad)
    close(layer.bias.grad, plain.bias.grad)
    assert layer.num_batches_tracked == 0


def test_statistics_of_the_pass() -> None:
    layer = gradkern.nn.BatchNorm2d(3)
    told: list[BatchNormStats] = []
    layer.on_stats = lambda module, stats: told.append(stats)
    x = torch.randn(4, 3, 5, 5) * torch.tensor([1.0, 10.0, 0.1]).view(1, 3, 1, 1) + 2
    layer(x)
    stats = told[0].to_dict()
    variances = x.double().var((0, 2, 3), correction=0)
    assert stats["var_min"] == pytest.approx(variances.min().item(), rel=1e-6)
    assert stats["var_max"] == pytest.approx(variances.max().item(), rel=1e-6)
    assert stats["mean_max"] == pytest.approx(x.double().mean((0, 2, 3)).max().item(), rel=1e-6)
    assert stats["gain_max"] == pytest.approx((variances.min() + 1e-5).rsqrt().item(), rel=1e-6)
    drift = x.double().mean((0, 2, 3)).abs().max().item() / (1 + 1e-5) ** 0.5
    assert stats["drift"] == pytest.approx(drift, rel=1e-6)
    layer.eval()
    layer(x)
    assert len(told) == 1


def test_warns_of_few_values() -> None:
    layer = gradkern.nn.BatchNorm1d(3)
    with pytest.warns(UserWarning, match="3 values per channel"):
        layer(torch.randn(3, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(torch.randn(8, 3))
        layer.eval()
        layer(torch.randn(1, 3))


def test_saves_no_more_than_native() -> None:
    """20 times convolution, normalisation and activation: what backward keeps."""

    def saved(make: Any) -> int:
        layers = [
            nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), *make()) for _ in range(20)
        ]
        pointers: set[int] = set()

        def pack(tensor: Tensor) -> Tensor:
            if tensor.dim() == 4 and tensor.shape[0] == 2:
                pointers.add(tensor.data_ptr())
            return tensor

        x = torch.randn(2, 4, 8, 8)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            for layer in layers:
                x = layer(x)
                kept.append(x)
        return len(pointers)

    def ours(name: str) -> Any:
        return lambda: [gradkern.nn.BatchNorm2d(4, activation=name)]

    def native(activation: Any) -> Any:
        return lambda: [nn.BatchNorm2d(4), activation()]

    assert saved(ours("relu")) <= saved(native(nn.ReLU)) == 41
    assert saved(ours("silu")) == 40
    assert saved(native(nn.SiLU)) == 60


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_training_as_torchs(dtype: torch.dtype) -> None:
    """Convolutions in 16 bits, statistics and parameters in float32, with a loss scale."""

    def network(fused: bool) -> nn.Sequential:
        torch.manual_seed(0)
        first, second = nn.Conv2d(2, 8, 3), nn.Conv2d(8, 8, 3)
        if fused:
            norm = gradkern.nn.BatchNorm2d
            return nn.Sequential(first, norm(8, activation="relu"), second, norm(8))
        return nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), second, nn.BatchNorm2d(8))

    def trained(model: nn.Sequential, dtype: torch.dtype | None) -> Tensor:
        """All parameters after four steps; None: in float64 throughout."""
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
        for step in range(4):
            torch.manual_seed(step)
            x = torch.randn(8, 2, 9, 9)
            if step == 2:
                x[0, 0, 0, 0] = torch.inf  # this step is skipped
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                y = model(x if dtype is not None else x.double())
            loss = y.to(model[1].weight.dtype).square().mean(0).std() + model[1].weight.sum()
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        assert scaler.get_scale() == 64.0
        return torch.cat([p.detach().double().flatten() for p in model.parameters()])

    mine, theirs = network(True), network(False)
    given: list[torch.dtype] = []
    for model in (mine, theirs):
        model[1].register_forward_hook(lambda _, args, y: given.extend((args[0].dtype, y.dtype)))
    exact = trained(network(False).double(), None)
    ours, native = trained(mine, dtype), trained(theirs, dtype)
    assert given == [dtype] * len(given)
    assert all(p.dtype == torch.float32 for p in mine.parameters())
    # Both round to 16 bits in the same places; what they round differs in float32's last bits.
    assert (ours - exact).norm() < 1.2 * (native - exact).norm()
