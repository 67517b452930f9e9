"""softmax and log_softmax: autograd, functorch, forward AD, torch.compile; the public functions."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from exact_reference import same_bits
from kernel_backend import KernelBackend
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import gradkern
import gradkern.functional as G  # noqa: N812
import gradkern.numpy as gknp
from gradkern.softmax import LOG_SOFTMAX, SOFTMAX, Kind

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ImportWarning)  # torch looks for hypothesis, and needs it not
    from torch.testing._internal.common_methods_invocations import op_db

# Of torch's own code: forward AD loads decompositions by torch.jit, Dynamo instantiates Functions.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:`torch\.jit\..*` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

KINDS = [SOFTMAX, LOG_SOFTMAX]
FUNCTIONS: list[tuple[Callable[..., Tensor], Callable[..., Tensor]]] = [
    (G.softmax, torch.softmax),
    (G.log_softmax, torch.log_softmax),
]
both = pytest.mark.parametrize(("ours", "native"), FUNCTIONS, ids=["softmax", "log_softmax"])
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)

OPINFOS = [op for op in op_db if op.name in ("softmax", "log_softmax", "nn.functional.softmin")]
OURS = {"softmax": G.softmax, "log_softmax": G.log_softmax, "nn.functional.softmin": G.softmin}


def double(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


# ---- torch's own samples -------------------------------------------------------------------------


def test_there_are_opinfos_for_every_function() -> None:
    assert {op.name for op in OPINFOS} == OURS.keys()


@pytest.mark.parametrize("opinfo", OPINFOS, ids=lambda op: f"{op.name}-{op.variant_test_name}")
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
def test_opinfo_values(opinfo: Any, dtype: torch.dtype) -> None:
    ours = OURS[opinfo.name]
    samples = list(opinfo.sample_inputs("cpu", dtype))
    assert samples
    for sample in samples:
        got = ours(sample.input, *sample.args, **sample.kwargs)
        # Native rounds log_softmax of 16 bits more than once.
        want = opinfo.op(sample.input.double(), *sample.args, **sample.kwargs).to(got.dtype)
        torch.testing.assert_close(got, want)
        noncontiguous = sample.noncontiguous()
        got = ours(noncontiguous.input, *noncontiguous.args, **noncontiguous.kwargs)
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("opinfo", OPINFOS, ids=lambda op: f"{op.name}-{op.variant_test_name}")
def test_opinfo_gradients(opinfo: Any) -> None:
    ours = OURS[opinfo.name]
    for sample in opinfo.sample_inputs("cpu", torch.float64, requires_grad=True):

        def function(x: Tensor, sample: Any = sample) -> Tensor:
            return ours(x, *sample.args, **sample.kwargs)

        if function(sample.input).dtype != torch.float64:
            continue
        assert torch.autograd.gradcheck(function, sample.input, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(function, sample.input)


# ---- derivatives ---------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize(
    ("shape", "dim"), [((4, 5), 1), ((3, 4, 2), 1), ((), 0), ((1,), 0)], ids=str
)
def test_first_and_second_derivatives(
    backend: KernelBackend, kind: Kind, shape: tuple[int, ...], dim: int
) -> None:
    ours = G.softmax if kind is SOFTMAX else G.log_softmax
    x = double(*shape).detach().to(backend.device).requires_grad_()
    check = dict(check_forward_ad=True, check_batched_grad=backend.name == "cpu")
    assert torch.autograd.gradcheck(lambda x: ours(x, dim), x, **check)
    assert torch.autograd.gradgradcheck(lambda x: ours(x, dim), x)


@both
def test_third_derivative(ours: Any, native: Any) -> None:
    x = double(5)

    def third(function: Any) -> Tensor:
        value = function(x, 0)[1]
        for _ in range(3):
            (value,) = torch.autograd.grad(value, x, create_graph=True)
            value = value[2] + value[0]
        return value

    torch.testing.assert_close(third(ours), third(native), rtol=1e-10, atol=1e-12)


@both
@pytest.mark.parametrize("dim", [0, -1])
def test_functorch(ours: Any, native: Any, dim: int) -> None:
    x, tangent = double(3, 4).detach(), double(3, 4).detach()

    def third_derivatives(function: Any, x: Tensor) -> list[Tensor]:
        forward, reverse = torch.func.jacfwd, torch.func.jacrev
        return [
            outer(middle(inner(function)))(x)
            for outer, middle, inner in itertools.product((forward, reverse), repeat=3)
        ]

    def results(function: Any) -> list[Tensor]:
        def scalar(x: Tensor) -> Tensor:
            return (function(x, dim) * torch.arange(x.numel()).view(x.shape)).sum()

        row = lambda x: function(x, 0)  # noqa: E731
        return [
            torch.func.grad(scalar)(x),
            torch.func.hessian(scalar)(x),
            torch.func.jacrev(torch.func.jacrev(scalar))(x),
            torch.func.jacfwd(torch.func.jacfwd(scalar))(x),
            torch.func.jvp(torch.func.grad(scalar), (x,), (tangent,))[1],
            *third_derivatives(scalar, x[:2, :2]),
            torch.func.jacrev(row)(x[0]),
            torch.func.jacfwd(row)(x[0]),
            torch.func.vmap(row)(x),
            torch.func.vmap(row, in_dims=1)(x),
            torch.func.vmap(torch.func.vmap(row))(x),  # rows of no dimension
            torch.func.vmap(torch.func.hessian(lambda x: row(x)[1]))(x),
            torch.func.jvp(lambda x: function(x, dim), (x,), (tangent,))[1],
        ]

    for got, want in zip(results(ours), results(native), strict=True):
        torch.testing.assert_close(got, want)


@both
def test_forward_ad(ours: Any, native: Any) -> None:
    x, tangent = double(3, 4).detach(), double(3, 4).detach()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        got = torch.autograd.forward_ad.unpack_dual(ours(dual, 1)).tangent
        want = torch.autograd.forward_ad.unpack_dual(native(dual, 1)).tangent
    assert got is not None
    torch.testing.assert_close(got, want)


@both
def test_only_the_output_is_saved(ours: Any, native: Any) -> None:
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = ours(double(3, 4), 1)
    assert [t.data_ptr() for t in saved] == [y.data_ptr()]


# ---- tracing -------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(kind: Kind, dtype: torch.dtype) -> None:
    layouts = [
        torch.randn(3, 4, 5),
        torch.randn(3, 4, 5).permute(2, 0, 1),
        torch.randn(3, 8)[:, ::2],
    ]
    for x in [t.to(dtype) for t in layouts]:
        y = kind.value(x, 1)
        torch.library.opcheck(kind.value, (x, 1))
        torch.library.opcheck(kind.value_out, (x, -1), {"out": torch.empty_like(x)})
        torch.library.opcheck(kind.backward, (x, y, 1))
        torch.library.opcheck(kind.backward_out, (x, y, 1), {"out": torch.empty_like(x)})


@both
def test_compile(ours: Any, native: Any) -> None:
    torch._dynamo.reset()
    x = double(4, 6)

    def step(x: Tensor) -> Tensor:
        return (ours(x * 2, -1) * torch.arange(6)).sum() + ours(x, dim=0, dtype=torch.float32)[0, 0]

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    (got,) = torch.autograd.grad(compiled(x), x)
    (want,) = torch.autograd.grad(step(x), x)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(compiled(x), step(x))


# ---- the public functions ------------------------------------------------------------------------


@both
def test_dtype_converts_first(ours: Any, native: Any) -> None:
    x = torch.tensor([3, 1, 2])
    got = ours(x, 0, dtype=torch.float64)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, native(x, 0, dtype=torch.float64), rtol=1e-15, atol=0)
    half = torch.randn(4, 5).half().requires_grad_()
    y = ours(half, 1, dtype=torch.float32)
    assert y.dtype == torch.float32
    y[:, 0].sum().backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.float16


@both
def test_bad_arguments_raise_what_native_raises(ours: Any, native: Any) -> None:
    for x, dim in ((torch.randn(3), 1), (torch.randn(2, 3), -3), (torch.tensor(1.0), 2)):
        with pytest.raises(IndexError) as expected:
            native(x, dim)
        with pytest.raises(IndexError) as raised:
            ours(x, dim)
        assert str(raised.value) == str(expected.value)
    with pytest.raises(NotImplementedError, match="not implemented for 'Long'"):
        ours(torch.arange(3), 0)
    with pytest.raises(TypeError, match="input is a list; it must be a tensor"):
        ours([1.0], 0)


@kinds
def test_operators_refuse_before_they_write(kind: Kind) -> None:
    x = torch.randn(3, 4)
    out = torch.full((4, 3), 7.0)
    with pytest.raises(ValueError, match=r"out has shape \(4, 3\); it must have \(3, 4\)"):
        kind.value_out(x, 1, out=out)
    with pytest.raises(IndexError, match="dim is 2; it must be in"):
        kind.value_out(x, 2, out=torch.empty_like(x))
    with pytest.raises(ValueError, match="grad_output has shape"):
        kind.backward_out(out, x, 1, out=x)
    with pytest.raises(RuntimeError, match="out overlaps itself"):
        kind.value_out(x, 1, out=torch.zeros(3, 1).expand(3, 4))
    memory = torch.zeros(16)
    with pytest.raises(RuntimeError, match="shares a part of its memory"):
        kind.value_out(memory[:12].view(3, 4), 1, out=memory[4:].view(3, 4))
    assert (out == 7).all()


@pytest.mark.parametrize(
    ("ours", "native"),
    [
        (G.softmax, torch.nn.functional.softmax),
        (G.log_softmax, torch.nn.functional.log_softmax),
        (G.softmin, torch.nn.functional.softmin),
    ],
    ids=["softmax", "log_softmax", "softmin"],
)
def test_an_implicit_dimension_is_native_s_with_its_warning(ours: Any, native: Any) -> None:
    for dimensions in range(5):
        x = torch.randn([2, 3, 4, 5][:dimensions])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            got, want = ours(x), native(x)
        torch.testing.assert_close(got, want)
        assert [str(w.message) for w in caught[:1]] == [str(w.message) for w in caught[1:]]
        assert all(w.filename == __file__ for w in caught)


@pytest.fixture
def cuda_autocast() -> Iterator[None]:
    """What torch.autocast("cuda") switches on; it refuses to where there is no GPU."""
    before = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", True)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", before)


def test_cuda_autocast_is_to_float32_unless_a_dtype_is_given(cuda_autocast: None) -> None:
    with FakeTensorMode():
        on_gpu = torch.empty(3, 4, dtype=torch.float16, device="cuda")
        in_double = torch.empty(3, 4, dtype=torch.float64, device="cuda")
        for ours, _ in FUNCTIONS:
            assert ours(on_gpu, 1).dtype == torch.float32
            assert ours(on_gpu, 1, dtype=torch.float16).dtype == torch.float16
            assert ours(in_double, 1).dtype == torch.float64
            assert ours(torch.empty(3, dtype=torch.float16), 0).dtype == torch.float16


def test_without_autocast_the_dtype_stays() -> None:
    with FakeTensorMode():
        on_gpu = torch.empty(3, 4, dtype=torch.float16, device="cuda")
        assert G.softmax(on_gpu, 1).dtype == torch.float16
    half = torch.randn(3, 4).bfloat16()
    with torch.autocast("cpu"):
        assert G.softmax(half, 1).dtype == torch.softmax(half, 1).dtype


def test_what_has_no_kernels_is_native_s() -> None:
    for ours, _ in FUNCTIONS:
        with pytest.raises(NotImplementedError, match="aten::_"):
            ours(torch.eye(3).to_sparse(), 1)
        assert ours(torch.empty(2, 3, device="meta"), 1).shape == (2, 3)
        with pytest.raises(NotImplementedError, match="not implemented for 'ComplexFloat'"):
            ours(torch.ones(3, dtype=torch.complex64), 0)


def test_modules_are_torch_s() -> None:
    model = torch.nn.Sequential(
        torch.nn.Softmax(1), torch.nn.LogSoftmax(dim=-1), torch.nn.Softmin(0)
    )
    ours = copy.deepcopy(model)
    assert list(gradkern.nn.convert_activations(ours)) == ["0", "1", "2"]
    assert [type(m) for m in ours] == [
        gradkern.nn.Softmax,
        gradkern.nn.LogSoftmax,
        gradkern.nn.Softmin,
    ]
    assert repr(ours) == repr(model)
    assert all(isinstance(m, type(n)) for m, n in zip(ours, model, strict=True))
    x = torch.randn(3, 4)
    torch.testing.assert_close(ours(x), model(x))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for module in (gradkern.nn.Softmax(), torch.nn.Softmax()):
            module(x)
    assert len(caught) == 2
    assert (caught[0].filename, caught[0].lineno) == (caught[1].filename, caught[1].lineno)


# ---- NumPy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy_has_the_same_bits(order: Any, dtype: Any) -> None:
    x = np.asarray(np.random.default_rng(0).standard_normal((4, 5, 6)), dtype, order=order)
    for axis in (-1, 0, 1, 2, -3):
        for numpys, torchs in ((gknp.softmax, G.softmax), (gknp.log_softmax, G.log_softmax)):
            got = numpys(x, axis=axis)
            assert got.dtype == dtype
            assert same_bits(torch.from_numpy(got), torchs(torch.from_numpy(x), axis))
            sliced = numpys(x[::2, :, 1:4], axis)
            want = torchs(torch.from_numpy(x[::2, :, 1:4].copy()), axis)
            assert same_bits(torch.from_numpy(sliced), want)


def test_numpy_edges() -> None:
    assert gknp.softmax(np.array(3, np.float32)).item() == 1
    assert gknp.softmax(np.ones((0, 3), np.float32)).shape == (0, 3)
    assert math.isnan(gknp.log_softmax(np.float64([-np.inf, -np.inf]))[0])
    with pytest.raises(np.exceptions.AxisError):
        gknp.softmax(np.ones(3, np.float32), axis=1)
    with pytest.raises(TypeError, match="x has dtype int64"):
        gknp.softmax(np.arange(3))
    with pytest.raises(TypeError, match="x is a list"):
        gknp.softmax([1.0])  # type: ignore[arg-type]
