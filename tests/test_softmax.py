"""softmax and log_softmax: values and gradients against an exact reference, on every backend."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from exact_reference import components, same_bits, ulp, ulp_distance
from kernel_backend import KernelBackend
from softmax_reference import (
    exact_log_softmax_backward,
    exact_softmax,
    exact_softmax_backward,
    log_softmax_distance,
)
from torch import Tensor

import gradkern.functional as G  # noqa: N812
from gradkern.softmax import LOG_SOFTMAX, SOFTMAX

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INF = math.inf
NAN = math.nan
VALUE_ULPS = 4.0


def normal(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 4.0) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape) + sum(shape))
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def assert_values(x: Tensor, dim: int) -> None:
    """Both functions of `x`, which may be on a GPU, against the reference."""
    y, log_y = G.softmax(x, dim), G.log_softmax(x, dim)
    assert y.dtype == log_y.dtype == x.dtype
    assert y.shape == log_y.shape == x.shape
    assert ulp_distance(y, exact_softmax(x.cpu(), dim)) <= VALUE_ULPS
    assert log_softmax_distance(log_y, x.cpu(), dim) <= VALUE_ULPS


# One element; less and more than a pack; a warp's and a block's rows, and longer ones (CUDA); rows
# of one column, of a few, of several tiles.
SHAPES = [
    ((1,), 0),
    ((), 0),
    ((7,), -1),
    ((5, 16), 1),
    ((3, 129), 1),
    ((40, 33), -1),
    ((2, 1100), 1),
    ((2, 9001), 1),
    ((9, 1), 1),
    ((9, 1), 0),
    ((300, 3), 0),
    ((2, 37, 5), 1),
    ((2, 6, 7, 11), 1),
    ((3, 4, 300), 1),
    ((2, 3, 4, 5), 0),
    ((2, 3, 4, 5), -2),
]


@pytest.mark.parametrize(("shape", "dim"), SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values(
    backend: KernelBackend, dtype: torch.dtype, shape: tuple[int, ...], dim: int
) -> None:
    assert_values(normal(*shape, dtype=dtype).to(backend.device), dim)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 20.0, 300.0, 1e4, 1e30, 1e38])
@pytest.mark.parametrize("shape", [(8, 200), (8, 200, 3)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_of_all_magnitudes(
    backend: KernelBackend, dtype: torch.dtype, shape: tuple[int, ...], scale: float
) -> None:
    largest = torch.finfo(dtype).max / 8
    assert_values(normal(*shape, dtype=dtype, scale=min(scale, largest)).to(backend.device), 1)


@pytest.mark.parametrize("offset", [-3e4, 1e3, 2.0**20 + 0.5])
def test_a_common_offset_costs_no_accuracy(backend: KernelBackend, offset: float) -> None:
    for shape in ((6, 500), (6, 50, 10)):
        assert_values((normal(*shape, scale=20.0) + offset).to(backend.device), 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("inner", [1, 3, 40], ids="inner {}".format)
@pytest.mark.parametrize("size", [5, 40, 9000], ids="size {}".format)
def test_infinities_and_nan_are_native_s(
    backend: KernelBackend, dtype: torch.dtype, size: int, inner: int
) -> None:
    top = torch.finfo(dtype).max
    x = normal(8, size, inner, dtype=dtype)
    x[0, 1] = -INF
    x[1] = -INF
    x[2, :3] = -INF
    x[2, 4] = INF
    x[3, 2] = NAN
    x[4, :2] = INF
    x[5] = -top
    x[5, 1] = -INF
    x[6, 0], x[6, 1] = top, -top
    x[7, : size - 1] = -INF
    for ours, native in ((G.softmax, torch.softmax), (G.log_softmax, torch.log_softmax)):
        got = ours(x.to(backend.device), 1).cpu()
        want = native(x.double(), 1).to(dtype)
        # What overflows in the storage type, and not in float64.
        beyond = torch.isinf(want) | torch.isinf(got)
        assert torch.equal(got.isnan(), want.isnan())
        assert torch.equal(
            got[torch.isinf(x) & ~want.isnan()], want[torch.isinf(x) & ~want.isnan()]
        )
        torch.testing.assert_close(got[~beyond], want[~beyond], equal_nan=True)


@pytest.mark.parametrize("first", [0, 16384, 70000])
def test_a_long_row_begins_with_minus_infinity(first: int) -> None:
    """Parts of a row of nothing but -infinity, and NaN in one of them."""
    x = normal(2, 100_000)
    x[:, :first] = -INF
    assert_values(x, 1)
    x[0, 3] = NAN
    y = G.softmax(x, 1)
    assert y[0].isnan().all()
    assert not y[1].isnan().any()
    columns = torch.full((20_000, 2), -INF)
    columns[15_000:] = normal(5_000, 2)
    assert_values(columns, 0)
    columns[3, 1] = NAN
    y = G.softmax(columns, 0)
    assert y[:, 1].isnan().all()
    assert not y[:, 0].isnan().any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("inner", [1, 2], ids="inner {}".format)
def test_the_sum_of_a_million_terms_is_exact(dtype: torch.dtype, inner: int) -> None:
    """Terms all alike round all alike: a float32 sum of a million of these is off by 1e-2."""
    x = torch.full((1_000_000, inner), -0.7371, dtype=torch.float64).to(dtype)
    x[0] = 0
    assert_values(x, 0)
    assert_values(normal(1_000_000, inner, dtype=dtype, scale=3.0), 0)


# ---- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "dim"), SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_backward(
    backend: KernelBackend, dtype: torch.dtype, shape: tuple[int, ...], dim: int
) -> None:
    """In units of the magnitudes that the result is made of: they may cancel."""
    x = normal(*shape, dtype=dtype)
    grad = normal(*(*shape, 1), dtype=dtype).squeeze(-1)
    for kind, exact in (
        (SOFTMAX, exact_softmax_backward),
        (LOG_SOFTMAX, exact_log_softmax_backward),
    ):
        y = kind.value(x.to(backend.device), dim)
        got = kind.backward(grad.to(backend.device), y, dim)
        if not shape:
            dim_of = 0
            want, made_of = exact(grad.reshape(1), y.cpu().reshape(1), dim_of)
        else:
            want, made_of = exact(grad, y.cpu(), dim)
        error = np.abs(components(got).reshape(want.shape) - want)
        assert (error <= 4 * ulp(made_of, dtype)).all()


def test_backward_of_a_gradient_close_to_its_mean_is_exact(backend: KernelBackend) -> None:
    """g - sum(g * y) cancels to a few bits; the sum in float32 would lose them."""
    y = torch.softmax(normal(4, 64, scale=1.0), 1)
    grad = 1 + torch.arange(64).expand(4, 64) * 2.0**-20
    got = SOFTMAX.backward(grad.to(backend.device), y.to(backend.device), 1)
    # The stored y sum to 1 + e, and so does sum(g * y) differ.
    want, _ = exact_softmax_backward(grad, y, 1)
    centred = np.abs(want / components(y).reshape(want.shape))
    error = np.abs(components(got).reshape(want.shape) - want)
    unit = ulp(np.maximum(centred, 2.0**-24), torch.float32) * components(y).reshape(want.shape)
    assert (error <= 4 * unit + ulp(want, torch.float32)).all()


# ---- layouts -------------------------------------------------------------------------------------


def layouts(dtype: torch.dtype) -> dict[str, Tensor]:
    x = normal(4, 6, 5, 8, dtype=dtype)
    return {
        "contiguous": x,
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.transpose(0, 3),
        "permuted": x.permute(2, 0, 3, 1),
        "sliced": normal(4, 6, 5, 19, dtype=dtype)[..., 1:17:2],
        "expanded": normal(4, 1, 5, 8, dtype=dtype).expand(4, 6, 5, 8),
        "offset": normal(4 * 6 * 5 * 8 + 1, dtype=dtype)[1:].view(4, 6, 5, 8),
    }


@pytest.mark.parametrize("dim", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", list(layouts(torch.float32)))
def test_layouts(backend: KernelBackend, layout: str, dtype: torch.dtype, dim: int) -> None:
    x = layouts(dtype)[layout].to(backend.device)
    assert_values(x, dim)
    y = SOFTMAX.value(x, dim)
    assert y.stride() == torch.empty_like(x).stride()
    grad = normal(*x.shape, dtype=dtype).to(backend.device).transpose(0, 1).contiguous()
    got = SOFTMAX.backward(grad.transpose(0, 1), y, dim)
    want = SOFTMAX.backward(grad.transpose(0, 1).contiguous(), y.contiguous(), dim)
    assert same_bits(got, want)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 4)], ids=str)
def test_empty(backend: KernelBackend, shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, device=backend.device, requires_grad=True)
    for dim in range(len(shape)):
        y = G.log_softmax(x, dim)
        assert y.shape == shape
        y.sum().backward()
        assert x.grad is not None
        assert x.grad.shape == shape


@pytest.mark.parametrize("kind", [SOFTMAX, LOG_SOFTMAX], ids=["softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(3, 50), (3, 50, 7)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_out_and_operands_of_other_layouts(
    backend: KernelBackend, dtype: torch.dtype, shape: tuple[int, ...], kind: object
) -> None:
    assert kind in (SOFTMAX, LOG_SOFTMAX)
    operators = SOFTMAX if kind is SOFTMAX else LOG_SOFTMAX
    x = normal(*shape, dtype=dtype).to(backend.device)
    want = operators.value(x, 1)
    out = torch.full((*shape, 2), 7, dtype=dtype, device=backend.device)[..., 0]
    operators.value_out(x, 1, out=out)
    assert same_bits(out, want)
    in_place = x.clone()
    operators.value_out(in_place, 1, out=in_place)
    assert same_bits(in_place, want)
    grad = normal(*shape, dtype=dtype, scale=1.0).to(backend.device)
    want_grad = operators.backward(grad, want, 1)
    operators.backward_out(grad, want, 1, out=out)
    assert same_bits(out, want_grad)


# ---- the same bits -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "dim"),
    [((700, 130), 1), ((3, 70_000), 1), ((8, 90, 333), 1), ((9000, 40), 0)],
    ids=str,
)
def test_bits_do_not_depend_on_threads_or_alignment(
    shape: tuple[int, ...], dim: int, dtype: torch.dtype
) -> None:
    x = normal(*shape, dtype=dtype)
    threads = torch.get_num_threads()
    results = []
    try:
        for count, offset in ((1, 0), (2, 0), (3, 1), (2, 5)):
            torch.set_num_threads(count)
            placed = torch.empty(x.numel() + 8, dtype=dtype)[offset : offset + x.numel()]
            placed = placed.view(shape).copy_(x)
            y = SOFTMAX.value(placed, dim)
            results.append([y, LOG_SOFTMAX.value(placed, dim), SOFTMAX.backward(placed, y, dim)])
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(same_bits(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "dim"), [((1100, 5000), 1), ((66, 70_000), 1), ((4, 300, 5001), 1)], ids=str
)
def test_large_outputs_that_go_past_the_caches(
    shape: tuple[int, ...], dim: int, dtype: torch.dtype
) -> None:
    """The bits of a part of the rows, of which the output is small."""
    x = torch.randn(shape).to(dtype)
    x = x.expand(2, *shape).contiguous() if dtype == torch.bfloat16 else x
    dim += x.dim() - len(shape)
    assert x.numel() * x.element_size() >= 16 << 20
    y, log_y = SOFTMAX.value(x, dim), LOG_SOFTMAX.value(x, dim)
    of_grad = SOFTMAX.backward(x, y, dim)
    for part in (slice(0, 1), slice(x.shape[0] // 2, x.shape[0] // 2 + 1), slice(-1, None)):
        assert same_bits(SOFTMAX.value(x[part], dim), y[part])
        assert same_bits(LOG_SOFTMAX.value(x[part], dim), log_y[part])
        assert same_bits(SOFTMAX.backward(x[part], y[part], dim), of_grad[part])
