"""gradkern.numpy: the activations on arrays, with the bits of the operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from activation_reference import parameter_sets
from table_rows import ROWS, name, normal, same_bits

import gradkern.numpy as gknp
from gradkern.activations import Activation

ml_dtypes = pytest.importorskip("ml_dtypes")
DTYPES = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
    torch.float16: np.dtype(np.float16),
    torch.bfloat16: np.dtype(ml_dtypes.bfloat16),
}
Array = np.ndarray[Any, np.dtype[Any]]


def as_array(tensor: torch.Tensor) -> Array:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def as_tensor(array: Array) -> torch.Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.copy().view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_the_operators_bits(row: Activation) -> None:
    for dtype in DTYPES:
        x = normal(77, dtype=dtype)
        for parameters in parameter_sets(row):
            named = {n: p for (n, _), p in zip(row.parameters, parameters, strict=True)}
            value, derivative = row.value(x, *parameters), row.derivative(x, *parameters)
            array = as_array(x)
            got = gknp.activation(row.name, array, **named)
            assert got.dtype == DTYPES[dtype]
            assert same_bits(as_tensor(got), value)
            assert same_bits(
                as_tensor(gknp.activation_derivative(row.name, array, **named)), derivative
            )
            y, dy = gknp.activation_with_derivative(row.name, array, **named)
            assert same_bits(as_tensor(y), value)
            assert same_bits(as_tensor(dy), derivative)
            out = np.zeros_like(array)
            assert gknp.activation(row.name, array, out=out, **named) is out
            assert same_bits(as_tensor(out), value)
            assert same_bits(as_tensor(array), x), "the input was written"
            assert gknp.activation(row.name, array, out=array, **named) is array
            assert same_bits(as_tensor(array), value)


def base() -> Array:
    return normal(6, 10, dtype=torch.float64).numpy().copy()


LAYOUTS = {
    "Fortran": lambda: np.asfortranarray(base()),
    "with gaps": lambda: base()[1::2, ::3],
    "reversed": lambda: base()[::-1],
    "transposed with gaps": lambda: base()[:, ::2].T,
    "broadcast": lambda: np.broadcast_to(base()[0], (4, 10)),
    "0-dimensional": lambda: np.array(-1.5),
    "empty": lambda: np.empty((0, 3)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    x = LAYOUTS[layout]()
    want = x / (1 + np.exp(-x))
    np.testing.assert_allclose(gknp.activation("silu", x), want, rtol=1e-14)
    assert gknp.activation("silu", x).shape == x.shape
    for out in (np.empty(x.shape), np.empty(x.shape, order="F"), np.empty(x.shape[::-1]).T):
        assert gknp.activation("silu", x, out=out) is out
        np.testing.assert_allclose(out, want, rtol=1e-14)
    if layout != "broadcast":
        assert gknp.activation("silu", x, out=x) is x
        np.testing.assert_allclose(x, want, rtol=1e-14)


def test_out_that_shares_a_part_of_the_inputs_memory() -> None:
    """As NumPy's own functions: the result is that of separate memory."""
    memory = base().reshape(-1)
    want = np.maximum(memory[:40], 0)
    gknp.activation("relu", memory[:40], out=memory[3:43])
    np.testing.assert_array_equal(memory[3:43], want)


def test_a_read_only_input_may_be_read() -> None:
    x = base()
    x.flags.writeable = False
    gknp.activation("relu", x)
    with pytest.raises(ValueError, match="read-only"):
        gknp.activation("relu", x, out=x)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: gknp.activation("swish", x), ValueError, "name is 'swish'; it must be one of"),
        (
            lambda x: gknp.activation("silu", x.tolist()),
            TypeError,
            "x is a list; it must be a numpy",
        ),
        (lambda x: gknp.activation("silu", x, alpha=1), TypeError, "silu has no parameter alpha"),
        (lambda x: gknp.activation("elu", x, beta=1), TypeError, "no parameter beta; it has alpha"),
        (lambda x: gknp.activation("elu", x, alpha="1"), TypeError, "alpha is a str; it must be a"),
        (lambda x: gknp.activation("silu", x.astype(int)), TypeError, "x has dtype int64"),
        (lambda x: gknp.activation("silu", x.astype(complex)), TypeError, "x has dtype complex128"),
        (lambda x: gknp.activation("silu", x, out=[1.0]), TypeError, "out is a list"),
        (
            lambda x: gknp.activation("silu", x, out=np.empty(3)),
            ValueError,
            r"out has shape \(3,\)",
        ),
        (
            lambda x: gknp.activation("silu", x, out=np.empty(x.shape, np.float32)),
            ValueError,
            "dtype float32; it must have .* float64",
        ),
        (
            lambda x: gknp.activation("silu", x, out=np.broadcast_to(np.empty((1, 10)), (6, 10))),
            ValueError,
            r"out",
        ),
        (lambda x: gknp.activation("celu", x, alpha=0), RuntimeError, "alpha is 0"),
        (lambda x: gknp.activation("hardtanh", x, min_val=3), ValueError, "min_val is 3"),
        (lambda x: gknp.activation_derivative("silu", [1]), TypeError, "x is a list"),
        (lambda x: gknp.activation_with_derivative("silu", None), TypeError, "x is a NoneType"),
    ],
)
def test_errors(call: Any, error: type[Exception], words: str) -> None:
    x = base()
    before = x.copy()
    with pytest.raises(error, match=words):
        call(x)
    np.testing.assert_array_equal(x, before)


def test_threads_give_the_same_bits() -> None:
    x = normal(200_001).numpy()
    before = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        try:
            results.append(gknp.activation("gelu", x))
        finally:
            torch.set_num_threads(before)
    np.testing.assert_array_equal(*results)
