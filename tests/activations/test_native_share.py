"""What native PyTorch does for us, and what is refused: types, words, and nothing touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from table_rows import ROWS, function, name, normal, same_bits
from torch import Tensor

import gradkern
from gradkern.activations import TABLE, Activation

IN_TORCH = [row for row in ROWS if hasattr(torch.nn.functional, row.name)]


def native(row: Activation) -> Any:
    # Those of torch.nn.functional are deprecated for these two.
    return getattr(torch if row.name in ("sigmoid", "tanh") else torch.nn.functional, row.name)


class Tagged(Tensor):
    """A subclass that does nothing but stay."""


def outcome(call: Any) -> tuple[type[BaseException] | None, Any]:
    try:
        return None, call()
    except Exception as error:
        return type(error), None


INPUTS = {
    "int64": lambda: torch.arange(-3, 4),
    "uint8": lambda: torch.arange(7, dtype=torch.uint8),
    "bool": lambda: torch.tensor([True, False]),
    "complex64": lambda: torch.view_as_complex(normal(5, 2)),
    "complex128": lambda: torch.view_as_complex(normal(5, 2, dtype=torch.float64)),
    "sparse": lambda: normal(3, 4).relu().to_sparse(),
    "meta": lambda: torch.empty(3, 4, device="meta"),
    "subclass": lambda: normal(5).as_subclass(Tagged),
    "float8": lambda: normal(4).to(torch.float8_e4m3fn),
    "nested": lambda: torch.nested.nested_tensor([normal(2), normal(3)], layout=torch.jagged),
}


@pytest.mark.filterwarnings("ignore:.*prototype")
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("row", IN_TORCH, ids=name)
def test_what_native_does(row: Activation, kind: str) -> None:
    error, want = outcome(lambda: native(row)(INPUTS[kind]()))
    our_error, got = outcome(lambda: function(row)(INPUTS[kind]()))
    assert our_error == error
    if error is not None:
        return
    assert type(got) is type(want)
    assert got.dtype == want.dtype
    if kind != "nested":  # each nested tensor has a symbolic size of its own
        assert got.shape == want.shape
    assert got.layout == want.layout
    assert got.device == want.device
    if kind == "nested":
        got, want = got.values(), want.values()
    if kind != "meta":
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("row", [TABLE["sigmoid"], TABLE["tanh"]], ids=name)
def test_complex_gradients_in_place_and_out(row: Activation) -> None:
    x = torch.view_as_complex(normal(5, 2, dtype=torch.float64))
    assert torch.autograd.gradcheck(function(row), (x.clone().requires_grad_(),))
    want = native(row)(x)
    out = torch.empty_like(x)
    assert function(row)(x, out=out) is out
    torch.testing.assert_close(out, want)
    assert function(row)(x, inplace=True) is x
    torch.testing.assert_close(x, want)


def test_a_subclass_keeps_its_gradient() -> None:
    x = normal(5).as_subclass(Tagged).requires_grad_()
    y = gradkern.functional.silu(x)
    assert type(y) is Tagged
    (got,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(
        got.as_subclass(Tensor), TABLE["silu"].derivative(x.detach().as_subclass(Tensor))
    )


def test_parameters_and_dtensors_free_of_surprises() -> None:
    parameter = torch.nn.Parameter(normal(4))
    assert type(gradkern.functional.relu(parameter)) is Tensor
    with torch.no_grad():
        assert gradkern.functional.relu(parameter, inplace=True) is parameter


@pytest.mark.parametrize("row", IN_TORCH, ids=name)
def test_autocast_on_the_cpu_as_torch(row: Activation) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        x = normal(5, dtype=dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert function(row)(x).dtype == native(row)(x).dtype


def test_torch_function_modes_and_numbers_as_parameters() -> None:
    x = normal(5)
    assert same_bits(gradkern.functional.elu(x, 2), gradkern.functional.elu(x, alpha=2.0))
    assert same_bits(
        gradkern.functional.hardtanh(x, -1, 2),
        gradkern.functional.hardtanh(x, min_val=-1.0, max_val=2),
    )
    assert same_bits(
        gradkern.functional.gelu(x, approximate="tanh"), gradkern.functional.gelu_tanh(x)
    )


@pytest.mark.parametrize("row", ROWS, ids=name)
@pytest.mark.parametrize("bad", [3, 1.5, None, "x", [1.0]], ids=lambda bad: type(bad).__name__)
def test_input_that_is_no_tensor(row: Activation, bad: Any) -> None:
    for suffix in ("", "_with_derivative", "_with_stats"):
        with pytest.raises(
            TypeError, match=f"input is a {type(bad).__name__}; it must be a tensor"
        ):
            function(row, suffix)(bad)


def refused(call: Any, error: type[Exception], words: str, *untouched: Tensor) -> None:
    before = [t.clone() for t in untouched]
    versions = [t._version for t in untouched]
    with pytest.raises(error, match=words) as raised:
        call()
    for internal in (".cpp", "csrc", "Exception raised from", "gradkern delegates"):
        assert internal not in str(raised.value)
    for tensor, was, version in zip(untouched, before, versions, strict=True):
        assert same_bits(tensor, was)
        assert tensor._version == version


def test_parameters_without_a_meaning() -> None:
    f, x = gradkern.functional, normal(5)
    leaf = x.clone().requires_grad_()
    for alpha in (0, 0.0, -0.0):
        with pytest.raises(RuntimeError):
            torch.nn.functional.celu(x, alpha)
        refused(lambda a=alpha: f.celu(x, a), RuntimeError, "alpha is 0")
        refused(lambda a=alpha: f.celu(x, a, inplace=True), RuntimeError, "alpha is 0", x)
        refused(lambda a=alpha: f.celu(leaf, a), RuntimeError, "alpha is 0")
        refused(lambda a=alpha: f.celu_with_stats(x, a), RuntimeError, "alpha is 0")
        refused(lambda a=alpha: f.celu_with_derivative(x, a), RuntimeError, "alpha is 0")
    with pytest.raises(ValueError):  # noqa: PT011
        torch.nn.functional.hardtanh(x, 2, 1)
    words = "min_val is 2.*must not be above max_val, 1"
    refused(lambda: f.hardtanh(x, 2, 1), ValueError, words)
    refused(lambda: f.hardtanh(x, 2, 1, inplace=True), ValueError, words, x)
    refused(lambda: f.gelu(x, approximate="sigmoid"), RuntimeError, "must be either none or tanh")


NO_NUMBERS = {
    "text": "x",
    "digits": "1",
    "None": None,
    "list": [1.0],
    "tensor of an element": torch.ones(1),
    "tensor of two": torch.ones(2),
    "tensor that requires grad": torch.tensor(1.0, requires_grad=True),
}


@pytest.mark.parametrize("bad", NO_NUMBERS)
@pytest.mark.parametrize("row", [row for row in ROWS if row.parameters], ids=name)
def test_parameters_that_are_no_numbers(row: Activation, bad: str) -> None:
    x, value = normal(5), NO_NUMBERS[bad]
    for parameter, _ in row.parameters:
        named: dict[str, Any] = {parameter: value}
        error, _ = outcome(lambda named=named: native(row)(x, **named))
        # hardtanh compares its bounds before it looks at them.
        assert error is TypeError or (row.name == "hardtanh" and bad == "tensor of two")
        for suffix in ("", "_with_derivative", "_with_stats"):
            call = function(row, suffix)
            refused(lambda c=call, n=named: c(x, **n), TypeError, f"{parameter} is a .*must be a")
        module = getattr(gradkern.nn, row.module)()
        setattr(module, parameter, value)
        refused(lambda m=module: m(x), TypeError, f"{parameter} is a ")


def test_numbers_of_numpy_and_tensors_without_dimensions_are_parameters() -> None:
    x = normal(5)
    want = gradkern.functional.elu(x, 0.5)
    for alpha in (np.float32(0.5), np.float64(0.5), torch.tensor(0.5)):
        assert same_bits(gradkern.functional.elu(x, alpha), want)
    compiled = torch.compile(gradkern.functional.elu, fullgraph=True, backend="aot_eager")
    for number in (0.5, 0.25, 2):  # the second one makes it symbolic
        assert same_bits(compiled(x, number), gradkern.functional.elu(x, number))


@pytest.mark.parametrize("row", [TABLE["silu"], TABLE["elu"]], ids=name)
def test_out_that_cannot_receive(row: Activation) -> None:
    f, x = function(row), normal(4, 5)
    out = torch.zeros(5, 4)
    refused(
        lambda: f(x, out=out), RuntimeError, r"out has shape \(5, 4\); it must have \(4, 5\)", out
    )
    ints = torch.zeros(4, 5, dtype=torch.int32)
    refused(lambda: f(x, out=ints), RuntimeError, "can't be cast", ints)
    expanded = torch.zeros(4, 1).expand(4, 5)
    refused(lambda: f(x, out=expanded), RuntimeError, "out overlaps itself", expanded)
    windows = torch.as_strided(torch.zeros(40), (4, 5), (3, 1))
    refused(lambda: f(x, out=windows), RuntimeError, "out overlaps itself", windows)
    memory = normal(60)
    refused(
        lambda: f(memory[:20], out=memory[3:23]),
        RuntimeError,
        "shares a part of its memory",
        memory,
    )
    square = normal(4, 4)
    refused(lambda: f(square, out=square.t()), RuntimeError, "shares a part of its memory", square)
    meta = torch.empty(4, 5, device="meta")
    with pytest.raises((RuntimeError, ValueError)):
        f(x, out=meta)
    with pytest.raises(TypeError, match="out is a list; it must be a tensor"):
        f(x, out=[x])
    refused(
        lambda: f(x, inplace=True, out=torch.zeros(4, 5)), ValueError, "inplace is True and out", x
    )


@pytest.mark.parametrize("row", [TABLE["silu"], TABLE["elu"]], ids=name)
def test_in_place_on_memory_that_overlaps(row: Activation) -> None:
    for x in (normal(4, 1).expand(4, 5), torch.as_strided(normal(40), (4, 5), (3, 1))):
        refused(
            lambda x=x: function(row)(x, inplace=True), RuntimeError, "input overlaps itself", x
        )


def test_in_place_on_integers_as_native() -> None:
    x = torch.arange(-3, 4)
    assert gradkern.functional.relu(x, inplace=True) is x
    assert x.tolist() == [0, 0, 0, 0, 1, 2, 3]


def test_backward_operators_check_their_tensors() -> None:
    x = normal(4, 5)
    for row in (TABLE["silu"], TABLE["tanh"]):
        for grad, words in (
            (normal(5, 4), r"grad_output has shape \(5, 4\); it must have \(4, 5\) like input"),
            (
                normal(4, 5, dtype=torch.float64),
                "grad_output must have the dtype and device of input",
            ),
        ):
            for operator in (row.backward, row.second):
                refused(lambda o=operator, g=grad, r=row: o(g, x, *r.defaults()), ValueError, words)


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_what_has_no_derivative_kernel(row: Activation) -> None:
    for x in (torch.arange(3), torch.view_as_complex(normal(2, 2)), normal(3, 3).to_sparse()):
        with pytest.raises(NotImplementedError, match="gradkern has no kernels for this"):
            function(row, "_with_derivative")(x)
    y, dy = function(row, "_with_derivative")(torch.empty(3, 4, device="meta"))
    assert y.is_meta
    assert dy.shape == (3, 4)


def test_save_is_checked() -> None:
    for call in (gradkern.functional.tanh, gradkern.functional.tanh_with_stats):
        with pytest.raises(ValueError, match="save is 'both'; it must be one of output, input"):
            call(normal(3), save="both")
    with pytest.raises(ValueError, match="name is 'swish'"):
        gradkern.activations.activation("swish")
