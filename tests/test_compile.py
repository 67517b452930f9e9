"""Tracing: fake kernels, opcheck, torch.compile(fullgraph=True), export, and `_version` in them."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from exact_reference import ALL_DTYPES, REAL_DTYPES, same_bits
from side_by_side import copies_with_layout, parameters_with
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import gradkern

INF = math.inf
ops = torch.ops.gradkern


pytestmark = pytest.mark.usefixtures("nothing_compiled_before")


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_complex:
        parts = torch.randn((*shape, 2), generator=generator, dtype=torch.float64)
        return torch.view_as_complex(parts).to(dtype)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


# --- the operators ------------------------------------------------------------------------------

LISTS: dict[str, Callable[[], list[Tensor]]] = {
    "one": lambda: [normal(5)],
    "several": lambda: [normal(3), normal(2, 4, seed=1), normal(seed=2)],
    "bfloat16": lambda: [normal(9, dtype=torch.bfloat16), normal(2, 2, dtype=torch.bfloat16)],
    "mixed": lambda: [normal(4, dtype=d, seed=i) for i, d in enumerate(REAL_DTYPES)],
    "layouts": lambda: [
        normal(4, 6).t(),
        normal(4, 6)[:, ::2],
        normal(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        normal(20)[3:],
    ],
    "zero elements": lambda: [torch.empty(0), normal(3), torch.empty(2, 0)],
    "complex": lambda: [normal(4, dtype=torch.complex64), normal(3, dtype=torch.complex128)],
}


def float64(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


# For each operator: its arguments, given a list of tensors.
SAMPLES: dict[str, list[Callable[[list[Tensor]], tuple[Any, ...]]]] = {
    "tensor_norms": [lambda t: (t, 2.0), lambda t: (t, 0.0), lambda t: (t, 3.5, True)],
    "total_norm": [lambda t: (t, 2.0), lambda t: (t, 1.0)],
    "tensor_stats": [lambda t: (t,)],
    "clip_grad_norm_": [
        lambda t: (t, 0.1, 2.0),
        lambda t: (t, 100.0, 2.0),
        lambda t: (t, 0.1, 3.5),
    ],
    "clip_grad_norm_with_stats_": [lambda t: (t, 0.1, 2.0), lambda t: (t, 0.1, 1.0)],
    "clip_with_total_norm_": [lambda t: (t, float64(7.0), 0.1), lambda t: (t, float64(7.0), 8.0)],
    "clip_grad_norm_per_tensor_": [lambda t: (t, 0.1, 2.0), lambda t: (t, 0.1, 1.0)],
    "adaptive_clip_grad_": [
        lambda t: (t, [torch.ones_like(x) for x in t], 0.01, 1e-3, 2.0),
        lambda t: (t, [torch.ones_like(x) for x in t], 0.01, 1e-3, 1.0),
    ],
    "clip_grad_value_": [lambda t: (t, 0.5)],
}


def test_every_operator_has_samples() -> None:
    registered = {
        name.removeprefix("gradkern::").split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("gradkern::")
    }
    # tests/activations, tests/batch_norm and tests/test_softmax_autograd.py have the others.
    families = (
        *gradkern.activations.TABLE,
        *gradkern.gated.GATED,
        *gradkern.channelwise.CHANNELWISE,
        "random_rrelu",
        "batch_norm",
        "softmax",
        "log_softmax",
    )
    elsewhere = {n for n in registered if any(n == f or n.startswith(f"{f}_") for f in families)}
    assert registered - elsewhere == set(SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_opcheck(name: str) -> None:
    operator = getattr(ops, name).default
    first, *others = SAMPLES[name]
    torch.library.opcheck(operator, first(LISTS["layouts"]()))
    cheap = ("test_schema", "test_faketensor")
    for tensors in ("mixed", "bfloat16", "zero elements"):
        torch.library.opcheck(operator, first(LISTS[tensors]()), test_utils=cheap)
    for sample in others:
        torch.library.opcheck(operator, sample(LISTS["several"]()), test_utils=cheap)


@pytest.mark.parametrize("name", SAMPLES)
def test_fake_results_are_those_of_the_kernels(name: str) -> None:
    """Shape, dtype, device and strides, on each list."""
    operator = getattr(ops, name).default
    chosen = [x for x in LISTS if not (name == "clip_grad_value_" and x == "complex")]
    for tensors, sample in product(chosen, SAMPLES[name]):
        real = operator(*sample(LISTS[tensors]()))
        with FakeTensorMode() as mode:
            arguments = torch.utils._pytree.tree_map_only(
                Tensor, mode.from_tensor, sample(LISTS[tensors]())
            )
            fake = operator(*arguments)
        for r, f in zip(
            torch.utils._pytree.tree_leaves(real),
            torch.utils._pytree.tree_leaves(fake),
            strict=True,
        ):
            if r is None:
                assert f is None
                continue
            assert (r.shape, r.dtype, r.device, r.stride()) == (
                f.shape,
                f.dtype,
                f.device,
                f.stride(),
            )


def test_operators_refuse_in_tracing_what_they_refuse_in_running() -> None:
    integers = torch.ones(3, dtype=torch.int32)
    for name, samples in SAMPLES.items():
        operator = getattr(ops, name).default
        for bad in ([], [torch.ones(2), integers], [integers]):
            arguments = samples[0](bad)
            with pytest.raises((RuntimeError, ValueError, TypeError)):
                operator(*arguments)
            with FakeTensorMode() as mode, pytest.raises((RuntimeError, ValueError, TypeError)):
                operator(*torch.utils._pytree.tree_map_only(Tensor, mode.from_tensor, arguments))


def test_fake_cuda_tensors_trace_without_a_gpu() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        tensors = [
            torch.empty(3, device="cuda"),
            torch.empty(4, 5, device="cuda", dtype=torch.bfloat16),
        ]
        total = ops.clip_grad_norm_(tensors, 1.0, 2.0)
        assert (total.device.type, total.dtype, total.shape) == ("cuda", torch.float32, ())
        assert ops.tensor_stats(tensors).device.type == "cuda"
        with pytest.raises((RuntimeError, ValueError)):
            ops.total_norm([tensors[0], torch.empty(3)], 2.0)


# --- the public functions -----------------------------------------------------------------------

CLIPS: dict[str, Callable[[list[Tensor]], Any]] = {
    "clip_grad_norm_": lambda p: gradkern.clip_grad_norm_(p, 0.5),
    "clip_grad_norm_ order inf": lambda p: gradkern.clip_grad_norm_(p, 0.5, INF),
    "clip_grad_norm_ nothing to clip": lambda p: gradkern.clip_grad_norm_(p, 1e6, 3.5),
    "clip_grads_with_norm_": lambda p: gradkern.clip_grads_with_norm_(p, 0.5, torch.tensor(9.0)),
    "clip_grad_value_": lambda p: gradkern.clip_grad_value_(p, 0.5),
    "clip_grad_norm_with_stats_": lambda p: gradkern.clip_grad_norm_with_stats_(p, 0.5)[0],
    "clip_grad_norm_with_stats_ statistics": lambda p: (
        gradkern.clip_grad_norm_with_stats_(p, 0.5)[1].values
    ),
    "clip_grad_norm_per_tensor_": lambda p: gradkern.clip_grad_norm_per_tensor_(p, 0.5),
    "adaptive_clip_grad_": lambda p: gradkern.adaptive_clip_grad_(p),
}
READS: dict[str, Callable[[list[Tensor]], Tensor]] = {
    "get_total_norm": lambda t: gradkern.get_total_norm(t),
    "get_total_norm order 0": lambda t: gradkern.get_total_norm(t, 0),
    "get_total_norm order 'inf'": lambda t: gradkern.get_total_norm(t, "inf"),
    "tensor_stats": lambda t: gradkern.tensor_stats(t).values,
    "tensor_stats derived": lambda t: gradkern.tensor_stats(t).std + gradkern.tensor_stats(t).norm,
    "param_norms": lambda t: gradkern.param_norms([(str(i), x) for i, x in enumerate(t)]).norms,
}


def layouts_and_dtypes() -> list[Tensor]:
    return [
        normal(7),
        normal(6, 8)[:, ::2],
        normal(4, 6, dtype=torch.bfloat16, seed=1).t(),
        normal(5, dtype=torch.float64, seed=2),
    ]


@pytest.mark.parametrize("name", CLIPS)
def test_clips_compile_to_a_full_graph(name: str) -> None:
    clip = CLIPS[name]
    compiled = torch.compile(lambda p: clip(p), fullgraph=True, backend="aot_eager")
    original = layouts_and_dtypes()
    eager_gradients = [g for g in copies_with_layout(original) if g is not None]
    own_gradients = [g for g in copies_with_layout(original) if g is not None]
    expected = clip(parameters_with(eager_gradients))
    versions = [g._version for g in own_gradients]
    got = compiled(parameters_with(own_gradients))
    if expected is None:
        assert got is None
    else:
        assert same_bits(got, expected)
    for own, eager in zip(own_gradients, eager_gradients, strict=True):
        assert same_bits(own, eager)
        assert own.stride() == eager.stride()
    assert all(g._version > v for g, v in zip(own_gradients, versions, strict=True))


@pytest.mark.parametrize("name", READS)
def test_reads_compile_to_a_full_graph(name: str) -> None:
    read = READS[name]
    compiled = torch.compile(lambda t: read(t), fullgraph=True, backend="aot_eager")
    tensors = layouts_and_dtypes()
    versions = [t._version for t in tensors]
    assert same_bits(compiled(tensors), read(tensors))
    assert [t._version for t in tensors] == versions


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_clip_compiles_with_every_dtype(dtype: torch.dtype) -> None:
    compiled = torch.compile(
        lambda p: gradkern.clip_grad_norm_(p, 0.5), fullgraph=True, backend="aot_eager"
    )
    gradients, copies = [normal(7, dtype=dtype)], [normal(7, dtype=dtype)]
    total = compiled(parameters_with(gradients))
    assert same_bits(total, gradkern.clip_grad_norm_(parameters_with(copies), 0.5))
    assert same_bits(gradients[0], copies[0])


def test_module_norms_compile() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    module(normal(5, 3)).square().sum().backward()
    for function in (gradkern.grad_norms, gradkern.param_norms):
        compiled = torch.compile(
            lambda f=function: f(module).norms, fullgraph=True, backend="aot_eager"
        )
        assert same_bits(compiled(), function(module).norms)


def test_a_whole_step_compiles() -> None:
    """A gradient, its clip, and an update by the clipped gradient: nothing may be reordered."""

    def step(weight: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        holder = torch.zeros_like(weight)
        holder.grad = 2 * x.T @ (x @ weight)  # of the sum of squares of x @ weight
        total = gradkern.clip_grad_norm_(holder, 1.0)
        return weight - holder.grad, total

    weight, x = normal(4, 3), normal(6, 4, seed=1)
    expected, total = step(weight, x)
    assert total > 1
    assert (weight - expected).norm().item() == pytest.approx(1.0, rel=1e-5)
    got = torch.compile(step, fullgraph=True, backend="aot_eager")(weight, x)
    assert torch.allclose(got[0], expected, rtol=1e-6)
    assert torch.allclose(got[1], total, rtol=1e-6)


def test_what_follows_a_clip_sees_the_clipped_values() -> None:
    def run(gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        before = gradient.sum()
        total = torch.ops.gradkern.clip_grad_norm_([gradient], 1.0, 2.0)
        return before, total, gradient.sum()

    def public(parameter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        before = parameter.grad.sum()
        total = gradkern.clip_grad_norm_([parameter], 1.0)
        return before, total, parameter.grad.sum()

    for function, wrap in ((run, lambda g: g), (public, lambda g: parameters_with([g])[0])):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        before, total, after = compiled(wrap(torch.tensor([3.0, 4.0])))
        assert (before.item(), total.item()) == (7.0, 5.0)
        assert after.item() == pytest.approx(1.4, rel=1e-6)


def test_shapes_may_be_dynamic() -> None:
    compiled = torch.compile(
        lambda p: gradkern.clip_grad_norm_(p, 0.5),
        fullgraph=True,
        backend="aot_eager",
        dynamic=True,
    )
    for size in (5, 9, 1000):
        gradients, copies = [normal(size), normal(size, 2)], [normal(size), normal(size, 2)]
        total = compiled(parameters_with(gradients))
        assert same_bits(total, gradkern.clip_grad_norm_(parameters_with(copies), 0.5))
        assert all(same_bits(g, c) for g, c in zip(gradients, copies, strict=True))


def test_compiled_errors_leave_gradients_untouched() -> None:
    gradient = torch.full((3,), 10.0)
    integers = torch.ones(2, dtype=torch.int32)
    compiled = torch.compile(lambda p: gradkern.clip_grad_norm_(p, 1.0), backend="aot_eager")
    with pytest.raises(Exception, match=r"int32|Int"):
        compiled(parameters_with([gradient, integers]))
    assert gradient.tolist() == [10.0] * 3
    assert gradient._version == 0


def test_functionalised_graph_has_one_operator_and_no_copy_of_the_gradients() -> None:
    """`auto_functionalized` may stand for the operator; the clip itself must be one call."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compile(lambda p: gradkern.clip_grad_norm_(p, 1.0), fullgraph=True, backend=backend)(
        parameters_with([normal(3), normal(4), normal(5)])
    )
    (graph,) = graphs
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert sum("gradkern.clip_grad_norm_" in name for name in called) == 1
    assert not any("clone" in name or "copy" in name for name in called)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Inductor's own
def test_inductor() -> None:
    """A graph of one operator: Inductor must neither drop it nor hand it a copy."""
    compiled = torch.compile(lambda p: gradkern.clip_grad_norm_(p, 1.0), fullgraph=True)
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([4.0])]
    total = compiled(parameters_with(gradients))
    assert total.item() == 5.0
    assert gradients[0].tolist() == pytest.approx([0.6, 0.0], rel=1e-6)
    assert gradients[1].tolist() == pytest.approx([0.8], rel=1e-6)
    assert all(g._version > 0 for g in gradients)


# --- fake tensors outside of a compiler ---------------------------------------------------------


@pytest.mark.parametrize("name", READS)
def test_reads_of_fake_tensors(name: str) -> None:
    """As export and memory estimates do: shapes and dtypes without values."""
    real = READS[name](layouts_and_dtypes())
    with FakeTensorMode() as mode:
        fake = READS[name]([mode.from_tensor(t) for t in layouts_and_dtypes()])
    assert isinstance(fake, FakeTensor)
    assert (fake.shape, fake.dtype, fake.device) == (real.shape, real.dtype, real.device)


@pytest.mark.parametrize("name", [n for n in CLIPS if n != "clip_grads_with_norm_"])
def test_clips_of_fake_tensors(name: str) -> None:
    real = CLIPS[name](parameters_with(layouts_and_dtypes()))
    with FakeTensorMode() as mode:
        gradients = [mode.from_tensor(t) for t in layouts_and_dtypes()]
        parameters = [torch.zeros_like(g) for g in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        fake = CLIPS[name](parameters)
    assert all(g._version > 0 for g in gradients)
    if real is None:
        assert fake is None
    else:
        assert isinstance(fake, FakeTensor)
        assert (fake.shape, fake.dtype, fake.device) == (real.shape, real.dtype, real.device)


# --- export -------------------------------------------------------------------------------------


class Measured(nn.Module):
    """A model that reports the statistics of its activations."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.linear(x)
        return y, gradkern.tensor_stats([x, y]).values, gradkern.get_total_norm([x, y])


def test_export_and_load(tmp_path: Any) -> None:
    module, x = Measured(), normal(5, 4)
    # torch 2.13 can't load a program that has a no_grad region in it, be it native's norm or ours.
    with torch.no_grad():
        program = torch.export.export(module, (x,))
    file = tmp_path / "measured.pt2"
    torch.export.save(program, file)
    loaded = torch.export.load(file).module()
    with torch.no_grad():
        for got, expected in zip(loaded(x), module(x), strict=True):
            assert torch.allclose(got, expected, rtol=1e-6)
