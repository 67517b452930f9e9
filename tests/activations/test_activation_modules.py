"""gradkern.nn: drop-ins for torch's modules, and the converter of models."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from table_rows import ROWS, name, normal, same_bits
from torch import Tensor, nn

import gradkern
from gradkern.activations import TABLE, Activation

# Arguments that torch's classes take, beside none at all.
ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    "ReLU": [{"inplace": True}],
    "LeakyReLU": [{"negative_slope": 0.2}, {"negative_slope": 0.1, "inplace": True}],
    "ELU": [{"alpha": 0.5}, {"alpha": 2.0, "inplace": True}],
    "SELU": [{"inplace": True}],
    "CELU": [{"alpha": 0.5, "inplace": True}],
    "SiLU": [{"inplace": True}],
    "Mish": [{"inplace": True}],
    "Softplus": [{"beta": 2}, {"beta": 0.5, "threshold": 5}],
    "Hardtanh": [{"min_val": -2, "max_val": 0.5}, {"inplace": True}],
    "ReLU6": [{"inplace": True}],
    "Hardsigmoid": [{"inplace": True}],
    "Hardswish": [{"inplace": True}],
    "GELU": [{"approximate": "tanh"}],
}
TORCH_MODULES = [row.module for row in ROWS if hasattr(nn, row.module)]
CASES = [
    pytest.param(module, keywords, id=f"{module}{keywords or ''}")
    for module in TORCH_MODULES
    for keywords in ({}, *ARGUMENTS.get(module, []))
]


def pair(module: str, keywords: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    return getattr(gradkern.nn, module)(**keywords), getattr(nn, module)(**keywords)


@pytest.mark.parametrize(("module", "keywords"), CASES)
def test_like_torch(module: str, keywords: dict[str, Any]) -> None:
    ours, theirs = pair(module, keywords)
    assert isinstance(ours, type(theirs))
    assert repr(ours) == repr(theirs)
    assert ours.state_dict() == theirs.state_dict() == {}
    ours.load_state_dict(theirs.state_dict())
    assert {k: v for k, v in vars(ours).items() if not k.startswith("_")} == {
        k: v for k, v in vars(theirs).items() if not k.startswith("_")
    }
    x = normal(40, dtype=torch.float64)
    torch.testing.assert_close(ours(x.clone()), theirs(x.clone()), rtol=1e-12, atol=1e-14)
    if keywords.get("inplace"):
        y = x.clone()
        assert ours(y) is y


@pytest.mark.parametrize(("module", "keywords"), CASES)
def test_copies(module: str, keywords: dict[str, Any]) -> None:
    ours, _ = pair(module, keywords)
    ours.channel_dim = 0
    x = normal(10)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(other) is type(ours)
        assert repr(other) == repr(ours)
        assert other.channel_dim == 0
        assert same_bits(other(x.clone()), ours(x.clone()))


def test_arguments_by_position_and_wrong_ones() -> None:
    assert repr(gradkern.nn.Softplus(2, 5)) == repr(nn.Softplus(2, 5))
    assert repr(gradkern.nn.ELU(0.5, True)) == repr(nn.ELU(0.5, True))
    with pytest.raises(ValueError, match="save is 'both'; it must be one of output, input"):
        gradkern.nn.Tanh(save="both")
    with pytest.raises(TypeError):
        gradkern.nn.Tanh(3)
    with pytest.raises(TypeError, match="SquaredReLU takes"):
        gradkern.nn.SquaredReLU(0.5)
    with pytest.raises(TypeError, match="GELUTanh takes"):
        gradkern.nn.GELUTanh(alpha=1)
    with pytest.raises(AssertionError):
        gradkern.nn.Hardtanh(2, 1)  # as torch


@pytest.mark.parametrize("row", [r for r in ROWS if not hasattr(nn, r.module)], ids=name)
def test_modules_that_torch_lacks(row: Activation) -> None:
    module = getattr(gradkern.nn, row.module)
    x = normal(10)
    assert same_bits(module()(x), row.value(x, *row.defaults()))
    assert repr(module(inplace=True)).endswith("inplace=True)")
    y = x.clone()
    assert module(inplace=True)(y) is y


@pytest.mark.parametrize("save", ["output", "input"])
def test_save(save: str) -> None:
    x = torch.full((3,), 9.5, requires_grad=True)
    gradkern.nn.Tanh(save=save)(x).sum().backward()
    assert x.grad is not None
    assert bool((x.grad > 0).all()) == (save == "input")


@pytest.mark.parametrize("module", [getattr(gradkern.nn, row.module) for row in ROWS])
def test_on_stats(module: type[nn.Module]) -> None:
    layer = module()
    row: Activation = layer.row  # type: ignore[assignment]
    seen: list[Any] = []
    layer.on_stats = lambda *arguments: seen.append(arguments)
    layer.channel_dim = 1
    x = normal(5, 3).requires_grad_()
    y = layer(x)
    ((called_with, stats),) = seen
    assert called_with is layer
    value, expected = row.with_stats(x.detach(), *row.defaults(), 1)
    assert same_bits(y.detach(), value)
    assert same_bits(stats.values, expected)
    assert stats.channels == 3
    assert y.requires_grad
    layer.on_stats = None
    layer(x)
    assert len(seen) == 1


class Gate(nn.Sigmoid):
    """A subclass with a mind of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.same = self.act
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(3, 3), nn.Tanh()), self.act])
        self.by_name = nn.ModuleDict({"a": nn.ELU(0.5), "b": self.blocks[0][1]})
        self.gate = Gate()
        self.gelu = nn.GELU("tanh")
        self.prelu = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.by_name["a"](self.blocks[1](self.act(self.blocks[0](x))))
        return self.prelu(self.gelu(self.gate(self.by_name["b"](self.same(x)))))


def test_convert_activations() -> None:
    torch.manual_seed(0)
    model = Net()
    originals = {
        "act": model.act,
        "blocks.0.1": model.blocks[0][1],
        "by_name.a": model.by_name["a"],
        "gelu": model.gelu,
    }
    calls: list[str] = []
    model.act.register_forward_hook(lambda *_: calls.append("forward"))
    model.gelu.eval()
    names = [n for n, _ in model.named_modules(remove_duplicate=False)]
    x = normal(4, 3)
    before = model(x)
    calls.clear()
    replaced = gradkern.nn.convert_activations(model)
    assert {n: m for n, m in replaced.items() if n != "prelu"} == originals
    assert [n for n, _ in model.named_modules(remove_duplicate=False)] == names
    assert type(model.act) is gradkern.nn.ReLU
    assert model.act is model.same is model.blocks[1], "a shared module is replaced by one"
    assert model.blocks[0][1] is model.by_name["b"]
    assert type(model.by_name["a"]) is gradkern.nn.ELU
    assert model.by_name["a"].alpha == 0.5
    assert model.act.inplace
    assert type(model.gate) is Gate, "subclasses are left alone"
    assert model.gelu.approximate == "tanh"
    assert not model.gelu.training
    after = model(x)
    torch.testing.assert_close(after, before)
    assert calls.count("forward") == 3
    assert gradkern.nn.convert_activations(model) == {}


def test_what_cannot_be_converted() -> None:
    with pytest.raises(
        TypeError, match="model is a ReLU itself; it must be a module that contains"
    ):
        gradkern.nn.convert_activations(nn.ReLU())
    with pytest.raises(TypeError, match=r"model is a int; it must be a torch\.nn\.Module"):
        gradkern.nn.convert_activations(3)  # type: ignore[arg-type]


def test_every_module_of_torch_is_converted() -> None:
    model = nn.Sequential(*(getattr(nn, module)() for module in TORCH_MODULES))
    gradkern.nn.convert_activations(model)
    for module, ours in zip(TORCH_MODULES, model, strict=True):
        assert type(ours) is getattr(gradkern.nn, module)


def test_conversion_in_a_transformer_layer_keeps_its_result() -> None:
    """torch's fast path and ours: the layer looks for its activation by class and by function."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=nn.GELU(), batch_first=True).eval()
    x = normal(2, 3, 8)
    before = layer(x)
    gradkern.nn.convert_activations(layer)
    assert type(layer.activation) is gradkern.nn.GELU
    torch.testing.assert_close(layer(x), before)


def test_the_table_has_a_module_and_three_functions_for_each_row() -> None:
    for row in TABLE.values():
        assert row.module in gradkern.nn.__all__
        for suffix in ("", "_with_derivative", "_with_stats"):
            assert row.name + suffix in gradkern.functional.__all__
            assert getattr(gradkern.functional, row.name + suffix).__doc__
