"""The gated activations: values and gradients against the reference, layouts, autograd, tracing."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from activation_reference import DERIVATIVE_ULPS, REFERENCES, VALUE_ULPS, Exact, expected
from exact_reference import ulp
from kernel_backend import KernelBackend
from table_rows import DTYPES, SPECIAL, name, normal, same_bits
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import gradkern
import gradkern.functional as G  # noqa: N812
from gradkern.gated import GATED, Gated

ENTRIES = list(GATED.values())
entries = pytest.mark.parametrize("gated", ENTRIES, ids=name)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)

FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "swiglu": G.swiglu,
    "geglu": G.geglu,
    "geglu_tanh": lambda *tensors: G.geglu(*tensors, approximate="tanh"),
    "reglu": G.reglu,
}
NATIVE: dict[str, Callable[[Tensor], Tensor]] = {
    "swiglu": torch.nn.functional.silu,
    "geglu": torch.nn.functional.gelu,
    "geglu_tanh": lambda gate: torch.nn.functional.gelu(gate, approximate="tanh"),
    "reglu": torch.relu,
}


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def assert_product(got: Tensor, factor: Tensor, of_gate: Exact, unit: Any) -> None:
    """got = factor * f(gate), where f(gate) may be wrong by `unit`, and the product by a rounding
    of each of two factors and of the result."""
    with np.errstate(all="ignore"):
        want = factor.double().numpy() * of_gate.high
        allowed = np.abs(factor.double().numpy()) * unit + 2 * ulp(want, got.dtype)
        error = np.abs(got.cpu().double().numpy() - want)
    finite = np.isfinite(want) & (np.abs(want) < torch.finfo(got.dtype).max)
    assert (error <= allowed)[finite].all()
    assert np.array_equal(np.isnan(want), got.cpu().isnan().numpy())


def assert_right(gated: Gated, grad: Tensor, gate: Tensor, up: Tensor, device: Any) -> None:
    reference = REFERENCES[gated.activation.name]
    value = expected(reference.value, gate, ())
    derivative = expected(reference.derivative, gate, ())
    kind = arithmetic(gate.dtype)
    # In exponentially small tails a relative error of 1e-5 is allowed, as for the activation.
    value_unit = np.maximum(
        VALUE_ULPS * ulp(value.high, kind),
        1e-5 * np.abs(value.high) * (np.abs(value.high) < 2.0**-10),
    )
    derivative_unit = np.maximum(
        DERIVATIVE_ULPS * ulp(derivative.high, kind),
        1e-5 * np.abs(derivative.high) * (np.abs(derivative.high) < 2.0**-10),
    )
    for zero in reference.zeros:
        near = np.abs(gate.double().numpy() - zero) < 0.25
        derivative_unit = np.where(
            near, np.maximum(derivative_unit, 2 * torch.finfo(kind).eps), derivative_unit
        )
    there = [t.to(device) for t in (grad, gate, up)]
    assert_product(gated.value(*there[1:]), up, value, value_unit)
    of_gate, of_up = gated.backward(*there)
    with np.errstate(all="ignore"):
        both = (grad.to(kind) * up.to(kind)).double()
    assert_product(of_gate, both, derivative, derivative_unit)
    assert_product(of_up, grad, value, value_unit)


@dtypes
@entries
def test_values_and_gradients(backend: KernelBackend, gated: Gated, dtype: torch.dtype) -> None:
    count = 300 if dtype == torch.float64 else 1403
    gate, up, grad = (normal(count, dtype=dtype, seed=s, scale=4) for s in range(3))
    gate[:2] = torch.tensor([80.0, -80.0])
    assert_right(gated, grad, gate, up, backend.device)


@dtypes
@entries
def test_special_values_are_those_of_the_composition(
    backend: KernelBackend, gated: Gated, dtype: torch.dtype
) -> None:
    special = torch.tensor(SPECIAL, dtype=torch.float64).to(dtype)
    gate, up = (t.reshape(-1) for t in torch.meshgrid(special, special, indexing="ij"))
    got = gated.value(gate.to(backend.device), up.to(backend.device)).cpu()
    opened = getattr(G, gated.activation.name)(gate.double())
    want = (opened * up.double()).to(dtype)
    torch.testing.assert_close(got, want, equal_nan=True)
    grad = torch.ones_like(gate)
    of_gate, of_up = gated.backward(*(t.to(backend.device) for t in (grad, gate, up)))
    torch.testing.assert_close(of_up.cpu(), opened.to(dtype), equal_nan=True)
    slope = gated.activation.derivative(gate.double())
    torch.testing.assert_close(of_gate.cpu(), (up.double() * slope).to(dtype), equal_nan=True)


# ---- layouts -------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize(
    "shape", [(2,), (1, 2), (3, 34), (5, 3, 130), (2, 1, 1100), (0, 4), (3, 0)]
)
@entries
def test_halves_of_one_tensor(
    backend: KernelBackend, gated: Gated, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = normal(*shape, dtype=dtype).to(backend.device)
    gate, up = x.chunk(2, -1)
    want = gated.value(gate.contiguous(), up.contiguous())
    got = gated.split(x)
    assert same_bits(got, want)
    assert got.is_contiguous()
    assert same_bits(gated.value(gate, up), want)
    grad = normal(*want.shape, dtype=dtype, seed=1).to(backend.device)
    of_halves = gated.backward(grad, gate.contiguous(), up.contiguous())
    assert same_bits(gated.split_backward(grad, x), torch.cat(of_halves, -1))
    for got, want in zip(gated.backward(grad, gate, up), of_halves, strict=True):
        assert same_bits(got, want)


def layouts(dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors of one shape."""
    return {
        "contiguous": normal(4, 6, 5, 8, dtype=dtype),
        "channels last": normal(4, 6, 5, 8, dtype=dtype).to(memory_format=torch.channels_last),
        "transposed": normal(8, 6, 5, 4, dtype=dtype).transpose(0, 3),
        "half": normal(4, 6, 5, 16, dtype=dtype)[..., 8:],
        "sliced": normal(4, 6, 5, 19, dtype=dtype)[..., 1:17:2],
        "gaps": normal(4, 6, 7, 16, dtype=dtype)[:, :, 1:6, :8],
        "expanded": normal(4, 1, 5, 8, dtype=dtype).expand(4, 6, 5, 8),
        "one row": normal(8, dtype=dtype).expand(4, 6, 5, 8),
        "offset": normal(4 * 6 * 5 * 8 + 1, dtype=dtype)[1:].view(4, 6, 5, 8),
    }


@pytest.mark.parametrize("up_layout", list(layouts(torch.float32)))
@pytest.mark.parametrize("gate_layout", list(layouts(torch.float32)))
def test_layouts(backend: KernelBackend, gate_layout: str, up_layout: str) -> None:
    gated = GATED["swiglu"]
    of_dtype = layouts(torch.float32)
    gate, up = of_dtype[gate_layout].to(backend.device), of_dtype[up_layout].to(backend.device)
    want = gated.value(gate.contiguous(), up.contiguous())
    got = gated.value(gate, up)
    assert same_bits(got, want)
    assert got.stride() == torch.empty_like(gate).stride()
    for out_layout in ("contiguous", "transposed", "half", "gaps"):
        out = torch.full_like(of_dtype[out_layout], 7).to(backend.device)
        gated.value_out(gate, up, out=out)
        assert same_bits(out, want)
    for grad_layout in ("contiguous", "transposed", "half", "one row"):
        grad = of_dtype[grad_layout].to(backend.device)
        wanted = gated.backward(grad.contiguous(), gate.contiguous(), up.contiguous())
        for got, want_grad in zip(gated.backward(grad, gate, up), wanted, strict=True):
            assert same_bits(got, want_grad)
            assert got.stride() == torch.empty_like(gate).stride()


@pytest.mark.parametrize("layout", list(layouts(torch.float32)))
@entries
def test_layouts_of_halves(backend: KernelBackend, gated: Gated, layout: str) -> None:
    x = layouts(torch.bfloat16)[layout].to(backend.device)
    want = gated.split(x.contiguous())
    assert same_bits(gated.split(x), want)
    grad = normal(4, 6, 4, 5, dtype=torch.bfloat16).to(backend.device).transpose(2, 3)
    want_grad = gated.split_backward(grad.contiguous(), x.contiguous())
    assert same_bits(gated.split_backward(grad, x), want_grad)
    out = torch.empty(4, 6, 4, 5, dtype=torch.bfloat16, device=backend.device).transpose(2, 3)
    gated.split_out(x, out=out)
    assert same_bits(out, want)
    into = torch.empty_like(x.contiguous())
    gated.split_backward_out(grad, x, out=into)
    assert same_bits(into, want_grad)
    in_place = x.contiguous()
    gated.split_backward_out(grad, in_place, out=in_place)
    assert same_bits(in_place, want_grad)


def test_scalars(backend: KernelBackend) -> None:
    gate, up = torch.tensor(1.0, device=backend.device), torch.tensor(2.0, device=backend.device)
    for gated in ENTRIES:
        assert gated.value(gate, up).shape == ()
        assert same_bits(gated.value(gate, up), gated.value(gate[None], up[None])[0])


@dtypes
def test_bits_do_not_depend_on_threads_or_alignment(dtype: torch.dtype) -> None:
    gated = GATED["geglu"]
    x, grad = normal(70, 2050, dtype=dtype), normal(70, 1025, dtype=dtype, seed=1)
    threads = torch.get_num_threads()
    results = []
    try:
        for count, offset in ((1, 0), (2, 0), (3, 1), (2, 5)):
            torch.set_num_threads(count)
            placed = torch.empty(x.numel() + 8, dtype=dtype)[offset : offset + x.numel()]
            placed = placed.view_as(x).copy_(x)
            results.append((gated.split(placed), gated.split_backward(grad, placed)))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(same_bits(a, b) for a, b in zip(result, results[0], strict=True))


# ---- autograd ------------------------------------------------------------------------------------


def smooth(*shape: int, seed: int = 0) -> Tensor:
    """Away from the corner of relu."""
    x = normal(*shape, dtype=torch.float64, seed=seed)
    return (x + x.sign() * 0.1).requires_grad_()


@entries
def test_gradcheck(gated: Gated) -> None:
    function = FUNCTIONS[gated.name]
    gate, up, both = smooth(3, 4), smooth(3, 4, seed=1), smooth(2, 6)
    for inputs in ((gate, up), (both,), (gate, up.detach()), (gate.detach(), up)):
        torch.autograd.gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True)
        torch.autograd.gradgradcheck(function, inputs, check_fwd_over_rev=True)


@entries
def test_functorch(gated: Gated) -> None:
    function, native = FUNCTIONS[gated.name], NATIVE[gated.name]
    gate, up = smooth(3, 4).detach(), smooth(3, 4, seed=1).detach()

    def composed(gate: Tensor, up: Tensor) -> Tensor:
        return native(gate) * up

    for transform in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        got = transform(lambda a: function(a, up[0]))(gate[0])
        torch.testing.assert_close(got, transform(lambda a: composed(a, up[0]))(gate[0]))
    torch.testing.assert_close(torch.func.vmap(function)(gate, up), composed(gate, up))
    got = torch.func.vmap(function, in_dims=(1, None))(gate, up[:, 0])
    torch.testing.assert_close(got, composed(gate.t(), up[:, 0]))
    got = torch.func.vmap(function)(torch.cat([gate, up], -1))
    torch.testing.assert_close(got, composed(gate, up))


@dtypes
@entries
def test_gradients_are_the_operator_s(
    backend: KernelBackend, gated: Gated, dtype: torch.dtype
) -> None:
    gate, up = (normal(5, 7, dtype=dtype, seed=s).to(backend.device) for s in (0, 1))
    grad = normal(5, 7, dtype=dtype, seed=2).to(backend.device)
    want = gated.backward(grad, gate, up)
    leaves = [t.clone().requires_grad_() for t in (gate, up)]
    FUNCTIONS[gated.name](*leaves).backward(grad)
    for leaf, of_leaf in zip(leaves, want, strict=True):
        assert leaf.grad is not None
        assert same_bits(leaf.grad, of_leaf)
    both = torch.cat([gate, up], -1).requires_grad_()
    FUNCTIONS[gated.name](both).backward(grad)
    assert both.grad is not None
    assert same_bits(both.grad, torch.cat(want, -1))


def test_only_inputs_are_saved() -> None:
    saved: list[Tensor] = []
    gate, up = smooth(3, 4), smooth(3, 4, seed=1)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        G.swiglu(gate, up)
        G.swiglu(gate)
    assert [t.data_ptr() for t in saved] == [t.data_ptr() for t in (gate, up, gate)]


# ---- tracing -------------------------------------------------------------------------------------


@entries
def test_opcheck(gated: Gated) -> None:
    checks = ("test_schema", "test_faketensor")
    for gate, up in (
        (normal(2, 6, dtype=torch.bfloat16), normal(2, 6, dtype=torch.bfloat16, seed=1)),
        tuple(normal(4, 6).chunk(2, -1)),
        (normal(3, 4).t(), normal(3, 4, seed=1).t()),
        (normal(3, 4).t(), normal(4, 3)),
        (normal(4, 3), normal(3, 4).t()),
        (normal(4, 12)[:, ::2], normal(4, 6)),
    ):
        grad = normal(*gate.shape, dtype=gate.dtype, seed=2)
        a, b = torch.empty_like(gate), torch.empty_like(gate)
        torch.library.opcheck(gated.value, (gate, up), test_utils=checks)
        torch.library.opcheck(gated.value_out, (gate, up), {"out": a}, test_utils=checks)
        torch.library.opcheck(gated.backward, (grad, gate, up), test_utils=checks)
        outs = {"grad_gate": a, "grad_up": b}
        torch.library.opcheck(gated.backward_out, (grad, gate, up), outs, test_utils=checks)
    for x in (normal(3, 4), normal(4, 3).t(), normal(3, 8)[:, ::2]):
        grad = normal(3, 2)
        torch.library.opcheck(gated.split, (x,), test_utils=checks)
        torch.library.opcheck(gated.split_out, (x,), {"out": grad.clone()}, test_utils=checks)
        torch.library.opcheck(gated.split_backward, (grad, x), test_utils=checks)
        out = {"out": torch.empty(3, 4)}
        torch.library.opcheck(gated.split_backward_out, (grad, x), out, test_utils=checks)


@entries
def test_compile_full_graph(nothing_compiled_before: None, gated: Gated) -> None:
    function = FUNCTIONS[gated.name]
    gate, up = normal(3, 4).requires_grad_(), normal(3, 4, seed=1).requires_grad_()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for inputs in ((gate, up), (gate,)):
        got, want = compiled(*inputs), function(*inputs)
        assert same_bits(got, want)
        gradients = torch.autograd.grad(got.square().sum(), inputs)
        for one, two in zip(
            gradients, torch.autograd.grad(want.square().sum(), inputs), strict=True
        ):
            assert same_bits(one, two)


def test_compile_of_a_network_by_inductor(nothing_compiled_before: None) -> None:
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = torch.nn.Linear(6, 16), torch.nn.Linear(8, 6)
            self.gate = gradkern.nn.SwiGLU()

        def forward(self, x: Tensor) -> Tensor:
            gate, up = self.inner(x).chunk(2, -1)
            result: Tensor = self.outer(self.gate(gate, up) + self.gate(self.inner(x)))
            return result

    model, x = Network(), normal(3, 6)
    want = model(x)
    want.sum().backward()
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad()
    got = torch.compile(model, fullgraph=True)(x)
    got.sum().backward()
    torch.testing.assert_close(got, want)
    torch.testing.assert_close([p.grad for p in model.parameters()], gradients)


# ---- the public functions ------------------------------------------------------------------------


@dtypes
@entries
def test_functions_are_the_compositions(gated: Gated, dtype: torch.dtype) -> None:
    function, native = FUNCTIONS[gated.name], NATIVE[gated.name]
    gate, up = normal(5, 8, dtype=dtype), normal(5, 8, dtype=dtype, seed=1)
    want = (native(gate.double()) * up.double()).to(dtype)
    torch.testing.assert_close(function(gate, up), want)
    torch.testing.assert_close(function(torch.cat([gate, up], -1)), want)


def test_the_first_half_is_the_gate_and_of_glu_the_second() -> None:
    x = normal(3, 8)
    first, second = x.chunk(2, -1)
    torch.testing.assert_close(G.swiglu(x), torch.nn.functional.silu(first) * second)
    torch.testing.assert_close(torch.nn.functional.glu(x), first * torch.sigmoid(second))


def test_dtypes_are_promoted_as_a_product_s() -> None:
    gate, up = normal(3, dtype=torch.bfloat16), normal(3)
    assert G.swiglu(gate, up).dtype == (torch.nn.functional.silu(gate) * up).dtype == torch.float32
    assert G.swiglu(gate, up.double()).dtype == torch.float64
    with torch.autocast("cpu"):
        assert G.swiglu(gate, gate).dtype == torch.bfloat16
        assert G.swiglu(up, up).dtype == torch.float32


def test_what_has_no_kernels_is_native_s() -> None:
    meta = torch.empty(2, 4, device="meta")
    assert G.swiglu(meta, meta).shape == (2, 4)
    assert G.swiglu(meta).shape == (2, 2)
    with pytest.raises(NotImplementedError):
        G.swiglu(torch.arange(4), torch.arange(4))
    with FakeTensorMode():
        on_gpu = torch.empty(2, 4, device="cuda", dtype=torch.float16)
        assert G.swiglu(on_gpu, on_gpu).device.type == "cuda"
        assert G.geglu(on_gpu).shape == (2, 2)

    class Wrapped(Tensor):
        pass

    x = normal(2, 4).as_subclass(Wrapped)
    assert type(G.reglu(x, x)) is Wrapped
    assert type(G.reglu(x)) is Wrapped


def test_bad_arguments() -> None:
    x = normal(2, 3)
    with pytest.raises(TypeError, match="gate is a list; it must be a tensor"):
        G.swiglu([1.0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="up is a float; it must be a tensor"):
        G.swiglu(x, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"up has shape \(3,\); it must have \(2, 3\) like gate"):
        G.swiglu(x, x[0])
    with pytest.raises(ValueError, match=r"gate has shape \(2, 3\) and up is None; the last dim"):
        G.swiglu(x)
    with pytest.raises(ValueError, match="must be even"):
        G.swiglu(torch.tensor(1.0))
    with pytest.raises(RuntimeError, match="approximate argument must be either none or tanh"):
        G.geglu(x, x, approximate="erf")


def test_operators_refuse_before_they_write() -> None:
    gated = GATED["swiglu"]
    x, other = normal(3, 4), normal(3, 4, seed=1)
    out = torch.full((3, 4), 7.0)
    with pytest.raises(
        ValueError, match=r"out has shape \(4, 3\); it must have \(3, 4\) like gate"
    ):
        gated.value_out(x, other, out=out.t())
    with pytest.raises(ValueError, match="up must have the dtype and device of gate"):
        gated.value_out(x, other.double(), out=out)
    with pytest.raises(RuntimeError, match="out overlaps itself"):
        gated.value_out(x, other, out=torch.zeros(4).expand(3, 4))
    memory = torch.zeros(20)
    with pytest.raises(RuntimeError, match="out shares a part of its memory with up"):
        gated.value_out(x, memory[:12].view(3, 4), out=memory[4:16].view(3, 4))
    with pytest.raises(RuntimeError, match="grad_up shares memory with grad_gate"):
        gated.backward_out(x, x, other, grad_gate=out, grad_up=out)
    with pytest.raises(ValueError, match="the last dimension of input is 3; it must be even"):
        gated.split(x[:, :3])
    with pytest.raises(ValueError, match="input has no dimension"):
        gated.split(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"grad_output has shape \(3, 4\); it must have \(3, 2\)"):
        gated.split_backward_out(x, other, out=out)
    with pytest.raises(RuntimeError, match="out shares memory with input"):
        gated.split_out(x, out=x[:, :2])
    assert (out == 7).all()
    in_place = x.clone()
    gated.value_out(in_place, other, out=in_place)
    assert same_bits(in_place, gated.value(x, other))


def test_modules() -> None:
    x, up = normal(3, 4), normal(3, 4, seed=1)
    assert same_bits(gradkern.nn.SwiGLU()(x, up), G.swiglu(x, up))
    assert same_bits(gradkern.nn.ReGLU()(x), G.reglu(x))
    tanh = gradkern.nn.GEGLU("tanh")
    assert same_bits(tanh(x, up), G.geglu(x, up, approximate="tanh"))
    assert repr(tanh) == "GEGLU(approximate='tanh')"
    assert repr(gradkern.nn.SwiGLU()) == "SwiGLU()"
    copy = pickle.loads(pickle.dumps(torch.nn.Sequential(tanh, gradkern.nn.SwiGLU())))
    assert same_bits(copy(torch.cat([x, up], -1)), G.swiglu(tanh(x, up)))
    assert pickle.loads(pickle.dumps(GATED["geglu"])) is GATED["geglu"]
