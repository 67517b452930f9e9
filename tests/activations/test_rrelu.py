"""RReLU: the generator, the slopes' distribution, gradients, tracing; the module."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import numpy.typing as npt
import pytest
import torch
from kernel_backend import KernelBackend
from table_rows import DTYPES, SPECIAL, normal, same_bits
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import gradkern
import gradkern.functional as G  # noqa: N812
from gradkern import rrelu as operators

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
SEEDS = (0, 1, -1, 2**40 + 7, -(2**63), 2**63 - 1)


# ---- the generator -------------------------------------------------------------------------------


def philox(counters: npt.NDArray[np.uint64], key: int) -> npt.NDArray[np.uint32]:
    """Philox4x32-10 as the paper has it: four words for each counter of 128 bits, given as four."""
    with np.errstate(over="ignore"):
        x = [counters[:, k].astype(np.uint64) for k in range(4)]
        keys = [key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF]
        for _ in range(10):
            products = np.uint64(0xD2511F53) * x[0], np.uint64(0xCD9E8D57) * x[2]
            high = [p >> np.uint64(32) for p in products]
            low = [p & np.uint64(0xFFFFFFFF) for p in products]
            x = [high[1] ^ x[1] ^ np.uint64(keys[0]), low[1],
                 high[0] ^ x[3] ^ np.uint64(keys[1]), low[0]]  # fmt: skip
            keys = [(keys[0] + 0x9E3779B9) & 0xFFFFFFFF, (keys[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(x, 1).astype(np.uint32)


def test_the_reference_is_philox() -> None:
    """Against the known answers of Random123, the authors' own code."""
    for counter, key, answer in (
        ([0] * 4, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, 2**64 - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            0x299F31D0A4093822,
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ):
        assert philox(np.array([counter], np.uint64), key)[0].tolist() == answer


def slopes(count: int, seed: int, lower: float, upper: float) -> npt.NDArray[np.float64]:
    """Element i has word i % 4 of counter i // 4, of which the upper 24 bits are the number."""
    counters = np.zeros(((count + 3) // 4, 4), np.uint64)
    counters[:, 0] = np.arange(len(counters))
    words = philox(counters, seed % 2**64).reshape(-1)[:count]
    return lower + (upper - lower) * (words >> 8) * 2.0**-24


@dtypes
@pytest.mark.parametrize("seed", SEEDS)
def test_slopes_are_those_of_the_generator(
    backend: KernelBackend, seed: int, dtype: torch.dtype
) -> None:
    x, grad = normal(1403, dtype=dtype), normal(1403, dtype=dtype, seed=1)
    there = [t.to(backend.device) for t in (grad, x, torch.tensor(seed))]
    of_element = np.where(x.double().numpy() > 0, 1, slopes(1403, seed, 0.1, 0.6))
    tolerance = torch.finfo(dtype).eps / (1 if dtype.itemsize > 2 else 1.9)
    for got, factor in (
        (operators.value(*there[1:], 0.1, 0.6), x),
        (operators.backward(*there, 0.1, 0.6), grad),
    ):
        want = torch.from_numpy(of_element * factor.double().numpy())
        torch.testing.assert_close(got.cpu().double(), want, rtol=tolerance, atol=1e-7)


def test_slopes_are_uniform() -> None:
    y = -operators.value(-torch.ones(1 << 20), torch.tensor(3), 0.25, 0.75).double()
    assert y.min() >= 0.25
    assert y.max() <= 0.75
    # The standard errors of mean and variance are 1.4e-4 and 1.8e-5.
    assert abs(y.mean() - 0.5) < 6e-4
    assert abs(y.var() - 1 / 48) < 8e-5
    neighbours = (y[1:] - 0.5) * (y[:-1] - 0.5)
    assert abs(neighbours.mean()) < 48**-1 * 5 / 1024
    counts = torch.histc(y.float(), 64, 0.25, 0.75)
    assert ((counts - 16384).square() / 16384).sum() < 130  # chi-squared, 63 degrees of freedom


@dtypes
def test_special_values(backend: KernelBackend, dtype: torch.dtype) -> None:
    x = torch.tensor(SPECIAL, dtype=torch.float64).to(dtype)
    seed = torch.tensor(1, device=backend.device)
    got = operators.value(x.to(backend.device), seed, 0.25, 0.25).cpu()
    want = torch.nn.functional.leaky_relu(x, 0.25)
    torch.testing.assert_close(got, want, equal_nan=True)
    of_x = operators.backward(torch.ones_like(x).to(backend.device), x.to(backend.device),
                              seed, 0.25, 0.25)  # fmt: skip
    want = torch.where(x > 0, 1, torch.where(x.isnan(), x, 0.25))
    torch.testing.assert_close(of_x.cpu(), want, equal_nan=True)


# ---- what the bits depend on ---------------------------------------------------------------------


@dtypes
def test_bits_depend_on_the_place_in_the_tensor_alone(
    backend: KernelBackend, dtype: torch.dtype
) -> None:
    """Not on its memory order, on its neighbours or their number."""
    x = normal(4, 6, 5, 8, dtype=dtype).to(backend.device)
    grad = normal(4, 6, 5, 8, dtype=dtype, seed=1).to(backend.device)
    seed = torch.tensor(5, device=backend.device)
    want = operators.value(x, seed, 0.1, 0.3)
    want_grad = operators.backward(grad, x, seed, 0.1, 0.3)
    for other in (
        x.contiguous(memory_format=torch.channels_last),
        x.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2),
        torch.stack([x, x], -1)[..., 0],
    ):
        got = operators.value(other, seed, 0.1, 0.3)
        assert same_bits(got, want)
        assert got.stride() == torch.empty_like(other).stride()
        assert same_bits(operators.backward(grad, other, seed, 0.1, 0.3), want_grad)
        turned = grad.transpose(0, 1).contiguous().transpose(0, 1)
        assert same_bits(operators.backward(turned, other, seed, 0.1, 0.3), want_grad)
        out = torch.empty_like(other)
        operators.value_out(other, seed, 0.1, 0.3, out=out)
        assert same_bits(out, want)
        operators.backward_out(grad, other, seed, 0.1, 0.3, out=out)
        assert same_bits(out, want_grad)
    first = operators.value(x.flatten()[:101], seed, 0.1, 0.3)
    assert same_bits(first, want.flatten()[:101])


@dtypes
def test_bits_do_not_depend_on_threads_or_alignment(dtype: torch.dtype) -> None:
    x, seed = normal(200_003, dtype=dtype), torch.tensor(11)
    threads = torch.get_num_threads()
    results = []
    try:
        for count, offset in ((1, 0), (2, 0), (3, 1), (2, 5)):
            torch.set_num_threads(count)
            placed = torch.empty(x.numel() + 8, dtype=dtype)[offset : offset + x.numel()].copy_(x)
            y = operators.value(placed, seed, 0.1, 0.3)
            results.append((y, operators.backward(placed, y, seed, 0.1, 0.3)))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(same_bits(a, b) for a, b in zip(result, results[0], strict=True))


def test_all_types_get_the_same_slopes(backend: KernelBackend) -> None:
    seed = torch.tensor(5, device=backend.device)
    of_dtype = [
        operators.value(-torch.ones(99, dtype=dtype, device=backend.device), seed, 0.1, 0.3)
        for dtype in DTYPES
    ]
    for dtype, got in zip(DTYPES, of_dtype, strict=True):
        want = of_dtype[1]
        torch.testing.assert_close(got.double(), want, rtol=torch.finfo(dtype).eps, atol=0)


# ---- the public function -------------------------------------------------------------------------


def test_seeds_come_from_torch_s_generator() -> None:
    x = -torch.rand(100)
    torch.manual_seed(3)
    first, second = G.rrelu(x, training=True), G.rrelu(x, training=True)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(G.rrelu(x, training=True), first)
    generator = torch.Generator().manual_seed(4)
    state = torch.get_rng_state()
    with_generator = G.rrelu(x, training=True, generator=generator)
    assert torch.equal(torch.get_rng_state(), state)
    again = G.rrelu(x, training=True, generator=generator.manual_seed(4))
    assert torch.equal(again, with_generator)


@dtypes
def test_without_training_the_slope_is_the_mean(dtype: torch.dtype) -> None:
    x = normal(5, 6, dtype=dtype)
    for bounds in ((), (0.1, 0.4), (0.25, 0.25), (-1, 1)):
        got, want = G.rrelu(x, *bounds), torch.nn.functional.rrelu(x, *bounds)
        torch.testing.assert_close(got, want)
    in_place = x.clone()
    assert G.rrelu(in_place, inplace=True) is in_place
    torch.testing.assert_close(in_place, torch.nn.functional.rrelu(x))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("bounds", [(0.1, 0.4), (0.0, 0.0), (-0.5, 0.5), (-2.0, -1.0)], ids=str)
def test_gradients(bounds: tuple[float, float], inplace: bool) -> None:
    """The slopes of backward are those of forward, also where the output has replaced the input."""
    leaf = normal(300, dtype=torch.float64).requires_grad_()
    x = leaf * 1
    y = G.rrelu(x, *bounds, training=True, inplace=inplace)
    assert (y is x) == inplace
    (gradient,) = torch.autograd.grad(y.sum(), leaf)
    want = torch.where(leaf > 0, 1, (y / leaf).nan_to_num(0)).detach()
    torch.testing.assert_close(gradient, want)


def test_double_backward() -> None:
    seed = torch.tensor(3)
    x = normal(12, dtype=torch.float64).requires_grad_()
    grad = normal(12, dtype=torch.float64, seed=1).requires_grad_()

    def function(x: Tensor) -> Tensor:
        return operators.rectify(x, seed, 0.1, 0.4)

    torch.autograd.gradcheck(function, (x,))
    torch.autograd.gradgradcheck(function, (x,), (grad,))
    torch.autograd.gradgradcheck(lambda x: function(x).square(), (x,))


def test_in_place_of_leaves_is_refused_as_native_refuses() -> None:
    leaf = torch.ones(3, requires_grad=True)
    for x in (leaf, leaf[1:]):
        with pytest.raises(RuntimeError, match="leaf Variable that requires grad is being used"):
            G.rrelu(x, training=True, inplace=True)
    x = -torch.ones(3)
    version = x._version
    G.rrelu(x, training=True, inplace=True)
    assert x._version == version + 1
    assert (x > -1).all()


def test_saved_are_the_input_and_the_seed() -> None:
    saved: list[Tensor] = []
    x = normal(50).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        G.rrelu(x, training=True)
    assert [t.numel() for t in saved] == [50, 1]
    assert saved[0].data_ptr() == x.data_ptr()


def test_transformations() -> None:
    x = normal(4, 5)
    got = torch.func.vmap(lambda t: G.rrelu(t, training=True), randomness="different")(x)
    assert ((got / x >= 1 / 8 - 1e-6) & (got / x <= 1)).all()
    gradient = torch.func.grad(lambda t: G.rrelu(t, 0.25, 0.25, training=True).sum())(x)
    torch.testing.assert_close(gradient, torch.where(x > 0, 1, 0.25))
    torch.autograd.gradcheck(
        lambda t: G.rrelu(t, 0.25, 0.25, training=True),
        x.double().requires_grad_(),
        check_forward_ad=True,
    )


def test_what_has_no_kernels_is_native_s() -> None:
    assert G.rrelu(torch.empty(2, 4, device="meta"), training=True).shape == (2, 4)
    with pytest.raises(NotImplementedError):
        G.rrelu(torch.arange(4), training=True)
    with FakeTensorMode():
        on_gpu = torch.empty(2, 4, device="cuda", dtype=torch.float16)
        assert G.rrelu(on_gpu, training=True).device.type == "cuda"

    class Wrapped(Tensor):
        pass

    assert type(G.rrelu(normal(3).as_subclass(Wrapped), training=True)) is Wrapped
    with pytest.raises(NotImplementedError, match="generator is given, and only native"):
        G.rrelu(torch.arange(4), training=True, generator=torch.Generator())


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0)], ids=str)
def test_small_tensors(backend: KernelBackend, shape: tuple[int, ...]) -> None:
    x = torch.full(shape, -2.0, device=backend.device)
    y = G.rrelu(x, 0.5, 0.5, training=True)
    assert torch.equal(y.cpu(), torch.full(shape, -1.0))


def test_bad_arguments() -> None:
    x, seed, out = normal(3), torch.tensor(1), torch.full((3,), 7.0)
    for training in (False, True):
        with pytest.raises(TypeError, match="upper is a str; it must be a real number"):
            G.rrelu(torch.ones(3), 0.1, "1", training)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="input is a list; it must be a tensor"):
        G.rrelu([1.0])  # type: ignore[arg-type]
    for training in (False, True):
        for bounds in ((0.5, 0.25), (math.nan, 1)):
            with pytest.raises(RuntimeError, match="Lower bound should be less than or equal"):
                G.rrelu(x, *bounds, training=training)
    with pytest.raises(ValueError, match=r"lower is 0\.5.*; it must not be above upper, 0\.25"):
        operators.value_out(x, seed, 0.5, 0.25, out=out)
    for wrong in (torch.tensor(1.0), torch.tensor([1, 2]), torch.tensor(1, dtype=torch.int32)):
        with pytest.raises(ValueError, match="it must be one int64 number on the device of input"):
            operators.value_out(x, wrong, 0.1, 0.3, out=out)
    with pytest.raises(ValueError, match=r"out has shape \(2,\); it must have \(3,\) like input"):
        operators.value_out(x, seed, 0.1, 0.3, out=out[:2])
    with pytest.raises(ValueError, match=r"grad_output has shape \(2,\)"):
        operators.backward_out(x[:2], x, seed, 0.1, 0.3, out=out)
    with pytest.raises(RuntimeError, match="out overlaps itself"):
        operators.value_out(x, seed, 0.1, 0.3, out=torch.zeros(1).expand(3))
    memory = torch.zeros(6)
    with pytest.raises(RuntimeError, match="shares a part of its memory with input"):
        operators.value_out(memory[:4], seed, 0.1, 0.3, out=memory[1:5])
    assert (out == 7).all()


# ---- tracing -------------------------------------------------------------------------------------


def test_opcheck() -> None:
    checks = ("test_schema", "test_faketensor")
    for x in (normal(2, 6, dtype=torch.bfloat16), normal(3, 4).t(), normal(4, 6)[:, ::2]):
        grad, seed = normal(*x.shape, dtype=x.dtype, seed=1), torch.tensor(3)
        out = {"out": torch.empty_like(x)}
        for operator, into, tensors in (
            (operators.value, operators.value_out, (x, seed)),
            (operators.backward, operators.backward_out, (grad, x, seed)),
        ):
            torch.library.opcheck(operator, (*tensors, 0.1, 0.3), test_utils=checks)
            torch.library.opcheck(into, (*tensors, 0.1, 0.3), out, test_utils=checks)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compile_full_graph(nothing_compiled_before: None, compiler: str, inplace: bool) -> None:
    def function(x: Tensor) -> Tensor:
        return G.rrelu(x * 1, 0.1, 0.3, training=True, inplace=inplace)

    x = normal(30, 40).requires_grad_()
    y = torch.compile(function, fullgraph=True, backend=compiler)(x)
    ratio = (y / x).detach()
    assert torch.equal(ratio[x > 0], torch.ones_like(ratio[x > 0]))
    assert ((ratio[x < 0] > 0.0999) & (ratio[x < 0] < 0.3001)).all()
    assert len(ratio[x < 0].unique()) > 300
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, ratio)


# ---- the module ----------------------------------------------------------------------------------


def test_the_module_is_torch_s() -> None:
    for arguments in ((), (0.1, 0.3), (0.1, 0.3, True)):
        ours, native = gradkern.nn.RReLU(*arguments), torch.nn.RReLU(*arguments)
        assert repr(ours) == repr(native)
        assert ours.state_dict() == native.state_dict() == {}
        x = normal(4, 5)
        torch.testing.assert_close(ours.eval()(x.clone()), native.eval()(x.clone()))
        ratio = ours.train()(x.clone()) / x
        assert len(ratio.unique()) > 5
        assert (ratio <= 1).all()
    copied = pickle.loads(pickle.dumps(ours))
    assert (copied.lower, copied.upper, copied.inplace) == (0.1, 0.3, True)


def test_conversion_of_models() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.RReLU(0.1, 0.2))
    ours = copy.deepcopy(model)
    assert list(gradkern.nn.convert_activations(ours)) == ["1"]
    assert type(ours[1]) is gradkern.nn.RReLU
    assert repr(ours) == repr(model)
    x = normal(4, 3)
    torch.testing.assert_close(ours.eval()(x), model.eval()(x))
