"""Activations after a bias, and PReLU: against float64, sums, layouts, autograd, tracing."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from activation_reference import DERIVATIVE_ULPS, REFERENCES, VALUE_ULPS, describe, expected
from exact_reference import components, ulp
from kernel_backend import KernelBackend
from table_rows import DTYPES, SPECIAL, name, normal, same_bits
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import gradkern
import gradkern.functional as G  # noqa: N812
from gradkern.channelwise import CHANNELWISE, Channelwise

ENTRIES = list(CHANNELWISE.values())
BIASED = [entry for entry in ENTRIES if entry.weight == "bias"]
PRELU = CHANNELWISE["prelu"]
entries = pytest.mark.parametrize("entry", ENTRIES, ids=name)
biased = pytest.mark.parametrize("entry", BIASED, ids=name)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)

FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "bias_gelu": G.bias_gelu,
    "bias_gelu_tanh": lambda x, bias: G.bias_gelu(x, bias, approximate="tanh"),
    "bias_silu": G.bias_silu,
    "prelu": G.prelu,
}


def weight_for(entry: Channelwise, x: Tensor, shared: bool = False) -> Tensor:
    if entry.weight == "bias":
        return normal(x.shape[-1], dtype=x.dtype, seed=9)
    return normal(1 if shared or x.dim() < 2 else x.shape[1], dtype=x.dtype, seed=9, scale=0.5)


def channel_axes(entry: Channelwise, x: Tensor, weight: Tensor) -> tuple[int, ...]:
    """The dimensions over which a parameter's gradient is summed."""
    if entry.weight == "bias":
        return tuple(range(x.dim() - 1))
    return tuple(d for d in range(x.dim()) if d != 1 or weight.numel() == 1)


def exact_sums(terms: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Each rounded once."""
    kept = [d for d in range(terms.ndim) if d not in axes]
    rows = terms.transpose(*kept, *axes).reshape(math.prod(terms.shape[d] for d in kept), -1)
    return np.array([math.fsum(row) for row in rows])


def assert_sums(got: Tensor, terms: np.ndarray, axes: tuple[int, ...], relative: float) -> None:
    """Within a rounding to the dtype, and `relative` of the magnitudes."""
    want, size = exact_sums(terms, axes), exact_sums(np.abs(terms), axes)
    error = np.abs(components(got) - want)
    assert (error <= relative * size + 0.501 * ulp(want, got.dtype)).all()


# ---- values and gradients ------------------------------------------------------------------------


@dtypes
@biased
def test_after_a_bias(backend: KernelBackend, entry: Channelwise, dtype: torch.dtype) -> None:
    """The sum is rounded to the precision of the arithmetic, and not to 16 bits."""
    x = normal(5 if dtype == torch.float64 else 37, 70, dtype=dtype, scale=3)
    bias, grad = weight_for(entry, x), normal(*x.shape, dtype=dtype, seed=1)
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    at = (x.to(kind) + bias.to(kind)).flatten()
    reference = REFERENCES[entry.activation.name]
    there = [t.to(backend.device) for t in (grad, x, bias)]
    y = entry.value(*there[1:]).cpu().flatten()
    assert not describe(y, expected(reference.value, at, ()), at, VALUE_ULPS)

    of_input, of_bias = (t.cpu() for t in entry.backward(*there))
    slope = expected(reference.derivative, at, ()).high.reshape(x.shape)
    want = grad.double().numpy() * slope
    unit = DERIVATIVE_ULPS * ulp(slope, kind) * np.abs(grad.double().numpy())
    unit = np.maximum(unit, 1e-5 * np.abs(want) * (np.abs(slope) < 2.0**-10))
    for zero in reference.zeros:
        near = np.abs(at.double().numpy().reshape(x.shape) - zero) < 0.25
        least = 2 * torch.finfo(kind).eps * np.abs(grad.double().numpy())
        unit = np.where(near, np.maximum(unit, least), unit)
    error = np.abs(of_input.double().numpy() - want)
    assert (error <= unit + ulp(want, dtype)).all()
    # Each term may be wrong by what one gradient may be.
    got = components(of_bias)
    allowed = unit.sum(0) + 0.501 * ulp(want.sum(0), dtype)
    if kind == torch.float32:
        allowed += (np.abs(want) * 2.0**-24).sum(0)
    assert (np.abs(got - want.sum(0)) <= allowed + 1e-15 * np.abs(want).sum(0)).all()


PRELU_SHAPES = [
    (7,),
    (3, 5),
    (400, 3),
    (6, 2100),
    (9, 1, 40),
    (2, 3, 17),
    (20, 5, 2, 3),
    (3, 4, 10, 13),
    (40, 3, 8, 9),
    (1, 2, 300, 120),
]


@dtypes
@pytest.mark.parametrize("shared", [False, True], ids=["per channel", "one"])
@pytest.mark.parametrize("shape", PRELU_SHAPES, ids=str)
def test_prelu(
    backend: KernelBackend, shape: tuple[int, ...], shared: bool, dtype: torch.dtype
) -> None:
    """Exact products in float64 and their exact sum; a float64 product is rounded."""
    x, grad = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=1)
    weight = weight_for(PRELU, x, shared)
    there = [t.to(backend.device) for t in (grad, x, weight)]
    slopes = weight if weight.numel() == 1 else weight.view(-1, *[1] * (x.dim() - 2))
    want = torch.where(x > 0, x.double(), slopes.double() * x.double()).to(dtype)
    assert same_bits(PRELU.value(*there[1:]).cpu(), want)
    of_input, of_weight = PRELU.backward(*there)
    want = torch.where(x > 0, grad.double(), slopes.double() * grad.double()).to(dtype)
    assert same_bits(of_input.cpu(), want)
    assert of_weight.shape == weight.shape
    terms = torch.where(x > 0, 0, grad.double() * x.double()).numpy()
    assert_sums(of_weight, terms, channel_axes(PRELU, x, weight), 2e-15)


def test_the_gradient_of_a_slope_does_not_lose_small_terms(backend: KernelBackend) -> None:
    """A float32 sum would stop growing at 2^24."""
    x = -torch.ones(1 << 12, 3, 4, device=backend.device)
    grad = torch.full_like(x, 2.0**-20)
    grad[0, :, 0] = 2.0**10
    _, of_weight = PRELU.backward(grad, x, torch.full((3,), 0.25, device=backend.device))
    want = -(2.0**10 + ((1 << 14) - 1) * 2.0**-20)
    torch.testing.assert_close(of_weight.cpu(), torch.full((3,), want), rtol=0, atol=0)
    bias = torch.zeros(3, device=backend.device)
    large = torch.full((1 << 14, 3), 40.0, device=backend.device)
    of_bias = CHANNELWISE["bias_silu"].backward(grad.movedim(1, 2).reshape(-1, 3), large, bias)[1]
    torch.testing.assert_close(of_bias.cpu(), torch.full((3,), -want), rtol=0, atol=0)


@dtypes
def test_special_values_are_native_s(backend: KernelBackend, dtype: torch.dtype) -> None:
    special = torch.tensor(SPECIAL, dtype=torch.float64).to(dtype)
    count = len(SPECIAL)
    x = special.expand(count, count).contiguous()
    for entry in BIASED:
        got = entry.value(x.t().contiguous().to(backend.device), special.to(backend.device))
        act = getattr(G, entry.activation.name)
        want = act(x.t().double() + special.double()).to(dtype)
        torch.testing.assert_close(got.cpu(), want, equal_nan=True)
    got = PRELU.value(x.t().contiguous().to(backend.device), special.to(backend.device))
    torch.testing.assert_close(got.cpu(), torch.prelu(x.t(), special), equal_nan=True)
    # In its own channel a NaN comes through, and nowhere else.
    x = normal(6, 3, 80, dtype=dtype)
    x[2, 1, 5] = math.nan
    weight = normal(3, dtype=dtype)
    _, of_weight = PRELU.backward(*(t.to(backend.device) for t in (x.nan_to_num(0), x, weight)))
    assert of_weight.isnan().tolist() == [False, True, False]


# ---- layouts -------------------------------------------------------------------------------------


def layouts(dtype: torch.dtype) -> dict[str, Tensor]:
    x = normal(4, 6, 5, 8, dtype=dtype)
    return {
        "contiguous": x,
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.transpose(0, 3).contiguous().transpose(0, 3),
        "permuted": x.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2),
        "sliced": normal(4, 6, 5, 19, dtype=dtype)[..., 1:17:2],
        "expanded": normal(4, 1, 5, 8, dtype=dtype).expand(4, 6, 5, 8),
        "offset": normal(4 * 6 * 5 * 8 + 1, dtype=dtype)[1:].view(4, 6, 5, 8),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", list(layouts(torch.float32)))
@entries
def test_layouts(
    backend: KernelBackend, entry: Channelwise, layout: str, dtype: torch.dtype
) -> None:
    x = layouts(dtype)[layout].to(backend.device)
    weight = weight_for(entry, x.cpu()).to(backend.device)
    want = entry.value(x.contiguous(), weight)
    got = entry.value(x, weight)
    assert same_bits(got, want)
    assert got.stride() == torch.empty_like(x).stride()
    apart = torch.stack([weight, weight], -1)[:, 0]
    assert same_bits(entry.value(x, apart), want)
    out = torch.full((*x.shape, 2), 7, dtype=dtype, device=backend.device)[..., 0]
    entry.value_out(x, weight, out=out)
    assert same_bits(out, want)

    grad = normal(*x.shape, dtype=dtype, seed=1).to(backend.device).transpose(0, 1).contiguous()
    grad = grad.transpose(0, 1)
    of_input, of_weight = entry.backward(grad, x, apart)
    want_input, want_weight = entry.backward(grad.contiguous(), x.contiguous(), weight)
    assert same_bits(of_input, want_input)
    assert of_input.stride() == torch.empty_like(x).stride()
    # In another memory order the sums are made in another order.
    torch.testing.assert_close(of_weight, want_weight, rtol=torch.finfo(dtype).eps, atol=0)
    into = torch.empty(weight.numel(), 2, dtype=dtype, device=backend.device)[:, 1]
    entry.backward_out(grad, x, weight, grad_input=out, **{f"grad_{entry.weight}": into})
    assert same_bits(out, want_input)
    assert same_bits(into, of_weight)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 4)], ids=str)
@entries
def test_empty(backend: KernelBackend, entry: Channelwise, shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, device=backend.device, requires_grad=True)
    weight = weight_for(entry, x).to(backend.device).requires_grad_()
    y = FUNCTIONS[entry.name](x, weight)
    assert y.shape == shape
    y.sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.zeros_like(weight))


def test_scalars_and_single_slopes(backend: KernelBackend) -> None:
    for x in (torch.tensor(-2.0), torch.tensor([-2.0])):
        for slope in (torch.tensor(0.5), torch.tensor([0.5])):
            leaf = slope.to(backend.device).requires_grad_()
            y = G.prelu(x.to(backend.device), leaf)
            assert y.shape == x.shape
            assert y.item() == -1
            y.sum().backward()
            assert leaf.grad is not None
            assert leaf.grad.shape == slope.shape
            assert leaf.grad.item() == -2


# ---- the same bits -------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("shape", [(700, 130), (3000, 5), (40, 5000), (8, 3, 70, 90), (3, 4, 7, 5)])
@entries
def test_bits_do_not_depend_on_threads_or_alignment(
    entry: Channelwise, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x, grad = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=1)
    weight = weight_for(entry, x)
    threads = torch.get_num_threads()
    results = []
    try:
        for count, offset in ((1, 0), (2, 0), (3, 1), (2, 5)):
            torch.set_num_threads(count)
            placed = torch.empty(x.numel() + 8, dtype=dtype)[offset : offset + x.numel()]
            placed = placed.view(shape).copy_(x)
            results.append([entry.value(placed, weight), *entry.backward(grad, placed, weight)])
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(same_bits(a, b) for a, b in zip(result, results[0], strict=True))


# ---- autograd ------------------------------------------------------------------------------------


def smooth(*shape: int, seed: int = 0) -> Tensor:
    """Away from the corner of PReLU."""
    x = normal(*shape, dtype=torch.float64, seed=seed)
    return (x + x.sign() * 0.1).requires_grad_()


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 2), (2, 3, 2, 2)], ids=str)
@entries
def test_gradcheck(entry: Channelwise, shape: tuple[int, ...]) -> None:
    function = FUNCTIONS[entry.name]
    for shared in (False, True) if entry is PRELU else (False,):
        x = smooth(*shape)
        weight = weight_for(entry, x, shared).detach().requires_grad_()
        for inputs in ((x, weight), (x, weight.detach()), (x.detach(), weight)):
            torch.autograd.gradcheck(
                function, inputs, check_forward_ad=True, check_batched_grad=True
            )
            torch.autograd.gradgradcheck(function, inputs, check_fwd_over_rev=True)


@entries
def test_functorch(entry: Channelwise) -> None:
    function, x = FUNCTIONS[entry.name], smooth(4, 3).detach()
    weight = weight_for(entry, x).detach()

    def composed(x: Tensor, weight: Tensor) -> Tensor:
        if entry is PRELU:
            return torch.prelu(x, weight)
        act = getattr(torch.nn.functional, entry.activation.name.removesuffix("_tanh"))
        tanh = {"approximate": "tanh"} if entry.activation.name == "gelu_tanh" else {}
        return act(x + weight, **tanh)  # type: ignore[no-any-return]

    for argnums in (0, 1):
        got = torch.func.jacrev(function, argnums=argnums)(x, weight)
        torch.testing.assert_close(got, torch.func.jacrev(composed, argnums=argnums)(x, weight))
    batch = torch.stack([x, x * 2])
    for dims in ((0, None), (0, 0)):
        weights = weight if dims[1] is None else torch.stack([weight, weight / 2])
        got = torch.func.vmap(function, in_dims=dims)(batch, weights)
        torch.testing.assert_close(got, torch.func.vmap(composed, in_dims=dims)(batch, weights))


@dtypes
@entries
def test_gradients_are_the_operator_s(
    backend: KernelBackend, entry: Channelwise, dtype: torch.dtype
) -> None:
    x, grad = normal(5, 7, dtype=dtype), normal(5, 7, dtype=dtype, seed=1)
    weight = weight_for(entry, x)
    x, grad, weight = (t.to(backend.device) for t in (x, grad, weight))
    want = entry.backward(grad, x, weight)
    leaves = [t.clone().requires_grad_() for t in (x, weight)]
    FUNCTIONS[entry.name](*leaves).backward(grad)
    for leaf, of_leaf in zip(leaves, want, strict=True):
        assert leaf.grad is not None
        assert same_bits(leaf.grad, of_leaf)


# ---- tracing -------------------------------------------------------------------------------------


@entries
def test_opcheck(entry: Channelwise) -> None:
    checks = ("test_schema", "test_faketensor")
    for x in (normal(2, 6, dtype=torch.bfloat16), normal(3, 4).t(), normal(4, 6)[:, ::2]):
        weight, grad = weight_for(entry, x), normal(*x.shape, dtype=x.dtype, seed=1)
        out = torch.empty_like(x)
        torch.library.opcheck(entry.value, (x, weight), test_utils=checks)
        torch.library.opcheck(entry.value_out, (x, weight), {"out": out}, test_utils=checks)
        torch.library.opcheck(entry.backward, (grad, x, weight), test_utils=checks)
        outs = {"grad_input": out, f"grad_{entry.weight}": torch.empty_like(weight)}
        torch.library.opcheck(entry.backward_out, (grad, x, weight), outs, test_utils=checks)


@entries
def test_compile_full_graph(nothing_compiled_before: None, entry: Channelwise) -> None:
    function, x = FUNCTIONS[entry.name], normal(3, 4).requires_grad_()
    weight = weight_for(entry, x).requires_grad_()
    got = torch.compile(function, fullgraph=True, backend="aot_eager")(x, weight)
    want = function(x, weight)
    assert same_bits(got, want)
    gradients = torch.autograd.grad(got.square().sum(), (x, weight))
    for one, two in zip(
        gradients, torch.autograd.grad(want.square().sum(), (x, weight)), strict=True
    ):
        assert same_bits(one, two)


def test_compile_of_a_network_by_inductor(nothing_compiled_before: None) -> None:
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Conv2d(2, 3, 3)
            self.slopes = gradkern.nn.PReLU(3)
            self.outer = torch.nn.Linear(4, 5, bias=False)
            self.bias = torch.nn.Parameter(torch.ones(5))

        def forward(self, x: Tensor) -> Tensor:
            return G.bias_gelu(self.outer(self.slopes(self.inner(x))), self.bias)

    model, x = Network(), normal(2, 2, 6, 6)
    want = model(x)
    want.sum().backward()
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad()
    got = torch.compile(model, fullgraph=True)(x)
    got.sum().backward()
    torch.testing.assert_close(got, want)
    torch.testing.assert_close([p.grad for p in model.parameters()], gradients)


# ---- the public functions ------------------------------------------------------------------------


def test_dtypes_are_promoted_as_a_sum_s() -> None:
    x, bias = normal(2, 3, dtype=torch.bfloat16), normal(3)
    assert G.bias_gelu(x, bias).dtype == (x + bias).dtype == torch.float32
    assert G.bias_silu(x, bias.double()).dtype == torch.float64
    with torch.autocast("cpu"):
        assert G.bias_gelu(x, bias.bfloat16()).dtype == torch.bfloat16
        assert G.bias_gelu(x.float(), bias).dtype == torch.float32


@dtypes
def test_autocast_of_prelu_is_native_s(dtype: torch.dtype) -> None:
    x, weight = normal(2, 3, dtype=dtype), normal(3)
    with torch.autocast("cpu"):
        for slopes in (weight, weight.to(dtype)):
            if (dtype == torch.float64) != (slopes.dtype == torch.float64):
                continue
            got, want = G.prelu(x, slopes), torch.nn.functional.prelu(x, slopes)
            assert got.dtype == want.dtype
            torch.testing.assert_close(got, want)


def test_prelu_raises_what_native_raises() -> None:
    for x, weight in (
        (normal(2, 3), normal(2)),
        (normal(3), normal(3)),
        (torch.tensor(1.0), normal(2)),
        (normal(2, 3), normal(3, 1)),
        (normal(2, 1), normal(1, 1)),
        (normal(2, 3).bfloat16(), normal(3)),
        (torch.arange(3), normal(1)),
    ):
        with pytest.raises(RuntimeError) as expected_error:
            torch.nn.functional.prelu(x, weight)
        with pytest.raises(RuntimeError) as raised:
            G.prelu(x, weight)
        assert str(raised.value) == str(expected_error.value)


def test_what_has_no_kernels_is_native_s() -> None:
    meta = torch.empty(2, 4, device="meta")
    assert G.bias_gelu(meta, meta[0]).shape == (2, 4)
    assert G.prelu(meta, meta[0]).shape == (2, 4)
    with pytest.raises(NotImplementedError):
        G.bias_silu(torch.arange(4), torch.arange(4))
    with FakeTensorMode():
        on_gpu = torch.empty(2, 4, device="cuda", dtype=torch.float16)
        weight = torch.empty(4, device="cuda", dtype=torch.float16)
        assert G.bias_gelu(on_gpu, weight).device.type == "cuda"
        assert G.prelu(on_gpu, weight).device.type == "cuda"

    class Wrapped(Tensor):
        pass

    x = normal(2, 4).as_subclass(Wrapped)
    assert type(G.bias_gelu(x, x[0])) is Wrapped
    assert type(G.prelu(x, x[0])) is Wrapped


def test_bad_arguments() -> None:
    x = normal(2, 3)
    with pytest.raises(TypeError, match="input is a list; it must be a tensor"):
        G.bias_gelu([1.0], x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="bias is a float; it must be a tensor"):
        G.bias_silu(x, 1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="weight is a float; it must be a tensor"):
        G.prelu(x, 1.0)  # type: ignore[arg-type]
    for bias in (x, x[:, 0], torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"bias has shape \(.*\); it must have one dimension"):
            G.bias_gelu(x, bias)
    with pytest.raises(RuntimeError, match="approximate argument must be either none or tanh"):
        G.bias_gelu(x, x[0], approximate="erf")


def test_operators_refuse_before_they_write() -> None:
    x, weight, out = normal(3, 4), normal(4), torch.full((3, 4), 7.0)
    entry = CHANNELWISE["bias_gelu"]
    with pytest.raises(ValueError, match=r"bias has shape \(3,\); it must have \(4,\) like the la"):
        entry.value_out(x, weight[:3], out=out)
    with pytest.raises(ValueError, match="bias must have the dtype and device of input"):
        entry.value_out(x, weight.double(), out=out)
    with pytest.raises(ValueError, match=r"out has shape \(4, 3\); it must have \(3, 4\)"):
        entry.value_out(x, weight, out=out.t())
    with pytest.raises(RuntimeError, match="out shares memory with bias"):
        entry.value_out(x, out[0], out=out)
    with pytest.raises(ValueError, match=r"weight has shape \(2,\); it must have \(4,\)"):
        PRELU.value_out(x, weight[:2], out=out)
    with pytest.raises(ValueError, match="weight has 4 elements; it must have 1"):
        PRELU.value(torch.tensor(1.0), weight)
    with pytest.raises(ValueError, match="input has no dimension"):
        entry.value(torch.tensor(1.0), weight)
    with pytest.raises(RuntimeError, match="grad_weight shares memory with grad_input"):
        PRELU.backward_out(x, x, weight, grad_input=out, grad_weight=out[0])
    with pytest.raises(ValueError, match=r"grad_bias has shape \(3,\); it must have \(4,\)"):
        entry.backward_out(x, x, weight, grad_input=out, grad_bias=torch.zeros(3))
    assert (out == 7).all()
    in_place = x.clone()
    PRELU.value_out(in_place, weight, out=in_place)
    assert same_bits(in_place, PRELU.value(x, weight))


# ---- the module ----------------------------------------------------------------------------------


def test_the_module_is_torch_s() -> None:
    for arguments in ((), (3,), (3, 0.1)):
        ours, native = gradkern.nn.PReLU(*arguments), torch.nn.PReLU(*arguments)
        assert repr(ours) == repr(native)
        assert ours.state_dict().keys() == native.state_dict().keys()
        native.weight.data.uniform_()
        ours.load_state_dict(native.state_dict())
        x = normal(4, 3, 5)
        torch.testing.assert_close(ours(x), native(x))
        ours(x).square().sum().backward()
        native(x).square().sum().backward()
        torch.testing.assert_close(ours.weight.grad, native.weight.grad)
    assert same_bits(pickle.loads(pickle.dumps(ours))(x), ours(x))
    assert pickle.loads(pickle.dumps(PRELU)) is PRELU


def test_conversion_of_models() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.PReLU(3), torch.nn.PReLU())
    ours: Any = copy.deepcopy(model)
    assert list(gradkern.nn.convert_activations(ours)) == ["1", "2"]
    assert [type(m) for m in ours[1:]] == [gradkern.nn.PReLU] * 2
    assert repr(ours) == repr(model)
    ours.load_state_dict(model.state_dict())
    x = normal(4, 3)
    torch.testing.assert_close(ours(x), model(x))
    optimiser = torch.optim.SGD(ours.parameters(), lr=0.1)
    ours(x).sum().backward()
    optimiser.step()
    assert not torch.equal(ours[1].weight, model[1].weight)
