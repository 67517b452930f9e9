"""gradkern.numpy: gated and channelwise activations of arrays, with the bits of torch's tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from table_rows import normal, same_bits
from test_activations_of_arrays import DTYPES, Array, as_array, as_tensor

import gradkern.functional as G  # noqa: N812
import gradkern.numpy as gknp


def with_tanh(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *tensors: function(*tensors, approximate="tanh")


# The function of arrays and the function of tensors.
GATED: dict[str, tuple[Callable[..., Array], Callable[..., torch.Tensor]]] = {
    "swiglu": (gknp.swiglu, G.swiglu),
    "geglu": (gknp.geglu, G.geglu),
    "geglu, tanh": (with_tanh(gknp.geglu), with_tanh(G.geglu)),
    "reglu": (gknp.reglu, G.reglu),
}
AFTER_BIAS: dict[str, tuple[Callable[..., Array], Callable[..., torch.Tensor]]] = {
    "bias_gelu": (gknp.bias_gelu, G.bias_gelu),
    "bias_gelu, tanh": (with_tanh(gknp.bias_gelu), with_tanh(G.bias_gelu)),
    "bias_silu": (gknp.bias_silu, G.bias_silu),
}
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def same(got: Array, want: torch.Tensor) -> bool:
    return got.dtype == DTYPES[want.dtype] and same_bits(as_tensor(got), want)


@dtypes
@pytest.mark.parametrize("name", GATED)
def test_gated_bits(name: str, dtype: torch.dtype) -> None:
    of_arrays, of_tensors = GATED[name]
    for shape in ((77,), (5, 6), (3, 4, 10)):
        gate, up = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=1)
        arrays = as_array(gate), as_array(up)
        before = [array.copy() for array in arrays]
        assert same(of_arrays(*arrays), of_tensors(gate, up))
        assert all(a.tobytes() == b.tobytes() for a, b in zip(arrays, before, strict=True))
        both = torch.cat([gate, up], -1)
        assert same(of_arrays(as_array(both)), of_tensors(both))


@dtypes
@pytest.mark.parametrize("name", AFTER_BIAS)
def test_bits_after_a_bias(name: str, dtype: torch.dtype) -> None:
    of_arrays, of_tensors = AFTER_BIAS[name]
    for shape in ((77,), (5, 6), (3, 4, 10)):
        x, bias = normal(*shape, dtype=dtype), normal(shape[-1], dtype=dtype, seed=1)
        assert same(of_arrays(as_array(x), as_array(bias)), of_tensors(x, bias))
        fortran = np.array(as_array(x), order="F")
        assert same(of_arrays(fortran, as_array(bias)), of_tensors(x, bias))


@dtypes
def test_bits_of_rrelu(dtype: torch.dtype) -> None:
    for shape in ((), (0,), (77,), (3, 4, 10)):
        x = normal(*shape, dtype=dtype)
        # The seed that the generator draws is the operator's.
        seed = int(np.random.default_rng(3).integers(-(2**63), 2**63 - 1))
        want = torch.ops.gradkern.random_rrelu(x, torch.tensor(seed), 0.2, 0.4)
        array = as_array(x)
        assert same(gknp.rrelu(array, 0.2, 0.4, np.random.default_rng(3)), want)
        # Slopes follow the order of memory.
        of_fortran = gknp.rrelu(array.T, 0.2, 0.4, np.random.default_rng(3))
        assert same(of_fortran.T, want)
    assert (gknp.rrelu(-np.ones(9)) != gknp.rrelu(-np.ones(9))).any()


@dtypes
def test_bits_of_prelu(dtype: torch.dtype) -> None:
    for shape in ((), (77,), (5, 6), (3, 4, 10), (2, 3, 4, 5)):
        x = normal(*shape, dtype=dtype)
        weights = [torch.tensor(0.3, dtype=dtype), torch.full((1,), -0.2, dtype=dtype)]
        if len(shape) > 1:
            weights.append(normal(shape[1], dtype=dtype, seed=1))
        for weight in weights:
            assert same(gknp.prelu(as_array(x), as_array(weight)), G.prelu(x, weight))
            fortran = np.array(as_array(x), order="F")
            assert same(gknp.prelu(fortran, as_array(weight)), G.prelu(x, weight))


def base(seed: int = 0) -> Array:
    return normal(6, 10, 4, dtype=torch.float64, seed=seed).numpy().copy()


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "C": lambda x: x,
    "Fortran": np.asfortranarray,
    "half of the last axis": lambda x: np.split(x, 2, -1)[1],
    "half of the middle axis": lambda x: np.split(x, 2, 1)[1],
    "every second": lambda x: x[..., ::2],
    "reversed": lambda x: x[::-1, :, ::-1],
    "rows reversed": lambda x: x[::-1],
    "transposed with gaps": lambda x: x[:, 1:, ::2].T,
    "broadcast": lambda x: np.broadcast_to(x[0], x.shape),
    "a column": lambda x: x[:, :, :1],
    "0-dimensional": lambda x: x[0, 0, 0, ...],
    "no rows": lambda x: x[:0],
    "no columns": lambda x: x[..., :0],
    "of a record": lambda x: of_record(x),
}


def of_record(x: Array) -> Array:
    """Elements that do not lie at multiples of their size."""
    records = np.zeros(x.shape, [("flag", np.int8), ("value", x.dtype)])
    records["value"] = x
    return records["value"]


@pytest.mark.parametrize("up_layout", LAYOUTS)
@pytest.mark.parametrize("gate_layout", LAYOUTS)
def test_gated_layouts(gate_layout: str, up_layout: str) -> None:
    gate, up = LAYOUTS[gate_layout](base()), LAYOUTS[up_layout](base(1))
    if gate.shape != up.shape:
        with pytest.raises(ValueError, match="up is float64 of shape"):
            gknp.swiglu(gate, up)
        return
    want = G.swiglu(torch.from_numpy(gate.copy()), torch.from_numpy(up.copy()))
    got = gknp.swiglu(gate, up)
    assert isinstance(got, np.ndarray)
    assert same(got, want)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    x = LAYOUTS[layout](base())
    tensor = torch.from_numpy(x.copy())
    if x.ndim == 0:
        with pytest.raises(ValueError, match=r"gate has shape \(\) and up is None"):
            gknp.reglu(x)
    elif x.shape[-1] % 2 == 0:
        assert same(gknp.reglu(x), G.reglu(tensor))
    if x.ndim > 0:
        bias = normal(2 * x.shape[-1], dtype=torch.float64).numpy()[::2]
        assert same(gknp.bias_silu(x, bias), G.bias_silu(tensor, torch.from_numpy(bias.copy())))
        slopes = normal(2 * x.shape[1], dtype=torch.float64).numpy()[::2]
        assert same(gknp.prelu(x, slopes), G.prelu(tensor, torch.from_numpy(slopes.copy())))
    assert same(gknp.prelu(x, np.array(0.5)), G.prelu(tensor, torch.tensor(0.5).double()))


def test_read_only_arrays_may_be_read() -> None:
    x, bias = base(), base()[0, 0]
    for array in (x, bias):
        array.flags.writeable = False
    for result in (gknp.swiglu(x), gknp.swiglu(x, x), gknp.bias_gelu(x, bias)):
        assert result.flags.writeable


def test_halves_are_read_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def copied(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError("a copy was made")

    monkeypatch.setattr(np, "ascontiguousarray", copied)
    x = base()
    want = G.swiglu(torch.from_numpy(x))
    assert same(gknp.swiglu(x), want)
    assert same(gknp.swiglu(x[..., :2], x[..., 2:]), want)
    assert same(gknp.swiglu(np.asfortranarray(x)), want)


def test_threads_give_the_same_bits() -> None:
    x = normal(300, 1002).numpy()
    weight = normal(1002).numpy()
    before = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        try:
            results.append([gknp.geglu(x), gknp.bias_gelu(x, weight), gknp.prelu(x, weight)])
        finally:
            torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


X = np.ones((2, 3), np.float32)
BIAS = np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: gknp.swiglu([1.0]), TypeError, "gate is a list; it must be a numpy.ndarray"),
        (lambda: gknp.reglu(X, 1.0), TypeError, "up is a float; it must be a numpy.ndarray"),
        (lambda: gknp.swiglu(X, X[0]), ValueError, r"up is float32 of shape \(3,\); it must be fl"),
        (lambda: gknp.swiglu(X, X.astype(float)), ValueError, "up is float64 of .* be float32"),
        (lambda: gknp.swiglu(X), ValueError, r"gate has shape \(2, 3\) and up is None; the last"),
        (lambda: gknp.swiglu(X.astype(int), X.astype(int)), TypeError, "gate has dtype int64"),
        (lambda: gknp.swiglu(np.empty(0, int)), TypeError, "gate has dtype int64"),
        (lambda: gknp.geglu(X, X, approximate="erf"), ValueError, "approximate is 'erf'; it must"),
        (lambda: gknp.bias_gelu([1.0], BIAS), TypeError, "x is a list"),
        (lambda: gknp.bias_gelu(X, [1.0]), TypeError, "bias is a list"),
        (
            lambda: gknp.bias_gelu(X, BIAS[:2]),
            ValueError,
            r"bias has shape \(2,\); it must have one",
        ),
        (lambda: gknp.bias_gelu(X, BIAS[:1]), ValueError, r"bias has shape \(1,\)"),
        (lambda: gknp.bias_silu(X[0, 0, ...], BIAS), ValueError, r"x, which has shape \(\)"),
        (
            lambda: gknp.bias_silu(X, BIAS.astype(float)),
            ValueError,
            "bias has dtype float64; it mu",
        ),
        (
            lambda: gknp.bias_gelu(X, BIAS, "erf"),
            ValueError,
            "approximate is 'erf'; it must be one",
        ),
        (lambda: gknp.bias_silu(X.astype(int), BIAS.astype(int)), TypeError, "x has dtype int64"),
        (lambda: gknp.prelu(None, BIAS), TypeError, "x is a NoneType"),
        (lambda: gknp.rrelu([1.0]), TypeError, "x is a list; it must be a numpy.ndarray"),
        (lambda: gknp.rrelu(X, "a"), TypeError, "lower is a str; it must be a real number"),
        (lambda: gknp.rrelu(X, 0.5, 0.2), ValueError, "lower is 0.5; it must not be above upper"),
        (lambda: gknp.rrelu(X, rng=3), TypeError, "rng is a int; it must be a numpy.random.Gen"),
        (lambda: gknp.prelu(X, 0.5), TypeError, "weight is a float; it must be a numpy.ndarray"),
        (lambda: gknp.prelu(X, BIAS[:2]), ValueError, r"weight has shape \(2,\); it must have one"),
        (lambda: gknp.prelu(X[0], BIAS), ValueError, r"axis 1 of x, which has shape \(3,\)"),
        (lambda: gknp.prelu(X, BIAS[None]), ValueError, r"weight has shape \(1, 3\)"),
        (
            lambda: gknp.prelu(X, BIAS.astype(float)),
            ValueError,
            "weight has dtype float64; it must",
        ),
        (lambda: gknp.prelu(X.astype(int), BIAS.astype(int)), TypeError, "x has dtype int64"),
    ],
)
def test_errors(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
