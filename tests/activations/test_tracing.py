"""opcheck of every operator; torch.compile(fullgraph=True) and export of the public functions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from table_rows import ROWS, function, name, normal, passes, same_bits, saves
from torch import Tensor, nn

import gradkern
from gradkern.activations import TABLE, Activation

pytestmark = pytest.mark.usefixtures("nothing_compiled_before")


# What an operator without an autograd formula can be checked for; the router has its own tests.
CHECKS = ("test_schema", "test_faketensor")


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_opcheck(row: Activation) -> None:
    parameters = row.defaults()
    for x in (normal(2, 3, dtype=torch.bfloat16), normal(4, 6)[:, ::2], normal(3, 4).t()):
        grad = normal(*x.shape, dtype=x.dtype, seed=1)
        for operator, tensors in passes(row):
            inputs = (grad, x)[2 - tensors :]
            torch.library.opcheck(operator, (*inputs, *parameters), test_utils=CHECKS)
        for channel_dim in (None, 0, -1):
            torch.library.opcheck(row.with_stats, (x, *parameters, channel_dim), test_utils=CHECKS)
        torch.library.opcheck(row.value_, (x.clone(), *parameters), test_utils=CHECKS)
        out = torch.empty_like(x)
        torch.library.opcheck(row.value_out, (x, *parameters), {"out": out}, test_utils=CHECKS)
        backwards = [row.backward] + ([row.backward_of_output] if row.saves_output else [])
        for operator in backwards:
            into = getattr(torch.ops.gradkern, operator._schema.name.split("::")[1]).out
            torch.library.opcheck(into, (grad, x, *parameters), {"out": out}, test_utils=CHECKS)
            into(grad, x, *parameters, out=out)
            assert same_bits(out, operator(grad, x, *parameters))


def forms(row: Activation) -> dict[str, Any]:
    """The public function in each form, and what eager gives is what a trace must give."""
    f, stats = function(row), function(row, "_with_stats")
    found = {
        "new": lambda x: f(x),
        "in place": lambda x: f(x * 1, inplace=True),
        "stats": lambda x: (lambda y, s: (y, s.values, s.mean))(*stats(x, channel_dim=1)),
    }
    if row.saves_output:
        found["new, saving the input"] = lambda x: f(x, save="input")
    return found


def outputs_and_gradient(call: Any, x: Tensor) -> list[Tensor]:
    leaf = x.clone().requires_grad_()
    results = call(leaf)
    results = list(results) if isinstance(results, tuple) else [results]
    (gradient,) = torch.autograd.grad(results[0].sum(), leaf)
    return [*(r.detach() for r in results), gradient]


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_compile_full_graph(row: Activation) -> None:
    x = normal(4, 5)
    for form, call in forms(row).items():
        torch._dynamo.reset()
        compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
        for got, want in zip(
            outputs_and_gradient(compiled, x), outputs_and_gradient(call, x), strict=True
        ):
            assert same_bits(got, want), form


@pytest.mark.parametrize("row", [TABLE["silu"], TABLE["tanh"]], ids=name)
def test_compile_of_functions_without_a_gradient(row: Activation) -> None:
    def call(x: Tensor, out: Tensor) -> tuple[Tensor, ...]:
        a = function(row)(x)
        b, dy = function(row, "_with_derivative")(x)
        function(row)(x, out=out)
        c = function(row)(x.clone(), inplace=True)
        return a, b, c, dy, out

    x = normal(4, 5)
    got = torch.compile(call, fullgraph=True, backend="aot_eager")(x, torch.empty_like(x))
    for one, two in zip(got, call(x, torch.empty_like(x)), strict=True):
        assert same_bits(one, two)


def test_compile_with_symbolic_shapes_and_layouts() -> None:
    call = torch.compile(
        lambda x: gradkern.functional.silu(x), fullgraph=True, backend="aot_eager", dynamic=True
    )
    for x in (normal(3, 4), normal(5, 6), normal(6, 5).t(), normal(7, 20)[:, ::2], normal(2, 1)):
        got, want = call(x), gradkern.functional.silu(x)
        assert same_bits(got, want)
        assert got.stride() == want.stride()


def test_compile_of_a_model_by_inductor() -> None:
    """With statistics in it, for a few rows: what Inductor makes of the operators."""
    model = nn.Sequential(
        nn.Linear(6, 6), gradkern.nn.SiLU(), nn.Linear(6, 6), gradkern.nn.Tanh(), gradkern.nn.ReLU()
    )
    seen: list[Tensor] = []
    model[3].on_stats = lambda module, stats: seen.append(stats.values)
    x = normal(3, 6)
    want = model(x)
    want.sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True)
    got = compiled(x)
    got.sum().backward()
    torch.testing.assert_close(got, want)
    torch.testing.assert_close([p.grad for p in model.parameters()], gradients)
    assert len(seen) == 2
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-6, atol=1e-6)


def test_export() -> None:
    """All rows in one model; the program runs without the module that it was made from."""

    class Model(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            plain = tuple(function(row)(x) for row in ROWS)
            y, stats = gradkern.functional.relu_with_stats(x, channel_dim=0)
            return (*plain, y, stats.values)

    x = normal(4, 5)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(Model(), (x,), dynamic_shapes=({1: batch},), strict=False)
    for t in (x, normal(4, 9)):
        for got, want in zip(program.module()(t), Model()(t), strict=True):
            assert same_bits(got, want)


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_modules_compile(row: Activation) -> None:
    if row.name not in ("gelu_tanh", "softplus", "hardtanh"):
        pytest.skip(
            "the forward method is the same for all; these have parameters or no torch class"
        )
    module = getattr(gradkern.nn, row.module)()
    module.channel_dim = 1
    seen: list[Tensor] = []
    module.on_stats = lambda m, stats: seen.append(stats.values)
    x = normal(3, 4)
    want = module(x)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert same_bits(compiled(x), want)
    assert same_bits(seen[0], seen[1])


def test_saves_are_kept_under_compilation() -> None:
    """`save` decides what a compiled graph keeps as well: tanh's tail is exact from the input."""
    x = torch.tensor([9.5])

    def gradient(save: str) -> float:
        torch._dynamo.reset()
        leaf = x.clone().requires_grad_()
        call = torch.compile(
            lambda t: gradkern.functional.tanh(t, save=save), fullgraph=True, backend="aot_eager"
        )
        return torch.autograd.grad(call(leaf).sum(), leaf)[0].item()

    assert gradient("output") == 0
    assert gradient("input") == pytest.approx(4 * 5.6027964e-09, rel=1e-5)


def test_save_keywords_are_those_of_the_table() -> None:
    for row in ROWS:
        assert len(saves(row)) == (2 if row.saves_output else 1)
