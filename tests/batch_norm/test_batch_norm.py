"""gradkern.functional.batch_norm: values, gradients and statistics, on every backend."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from batch_norm_bits import statistics_bits
from batch_norm_reference import (
    ACTIVATIONS,
    DTYPES,
    TOLERANCE,
    Problem,
    error,
    reference,
    with_gradients,
)
from kernel_backend import KernelBackend
from torch import Tensor

import gradkern
import gradkern.functional as G  # noqa: N812

# Planes of a part of a vector, of some and a part; rows; one channel; more columns than a tile;
# groups that stay in the cache, and (a channel of 70,000) that do not.
SHAPES = [(8, 5), (4, 3, 7), (2, 3, 7, 7), (3, 1, 4, 4), (5, 300), (3, 2, 2, 3, 5), (2, 2, 70_000)]


def ours(
    activation: str,
    eps: float = 1e-5,
    running: tuple[Tensor, Tensor] | None = None,
    training: bool = True,
) -> object:
    mean, var = running or (None, None)

    def function(
        x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        return G.batch_norm(
            x, mean, var, weight, bias, training, 0.1, eps, activation=activation, residual=residual
        )

    return function


def assert_right(backend: KernelBackend, problem: Problem, activation: str) -> None:
    channels, parameters = problem.x.shape[1], torch.float64
    here = problem.on(backend.device)
    running = torch.zeros(channels), torch.ones(channels)
    of_reference = torch.zeros(channels, dtype=parameters), torch.ones(channels, dtype=parameters)
    moved = running[0].to(backend.device), running[1].to(backend.device)
    got = with_gradients(ours(activation, running=moved), here)
    want = reference(problem, activation, running=of_reference)
    limit = TOLERANCE[problem.x.dtype]
    assert got[0].stride() == problem.x.stride()
    for mine, true in zip((got[0], *got[1]), (want[0], *want[1]), strict=True):
        assert error(mine, true) <= limit
    for mine, true in zip(moved, of_reference, strict=True):
        assert error(mine, true) <= 1e-6  # float32
    # And by what was collected.
    got = with_gradients(ours(activation, running=moved, training=False), here)
    seen = moved[0].cpu().double(), moved[1].cpu().double()
    want = reference(problem, activation, running=seen, training=False)
    for mine, true in zip((got[0], *got[1]), (want[0], *want[1]), strict=True):
        assert error(mine, true) <= limit


@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_activation(
    backend: KernelBackend, dtype: torch.dtype, activation: str, residual: bool
) -> None:
    for shape in ((6, 3, 5, 5), (9, 20)):
        assert_right(backend, Problem.make(shape, dtype, residual=residual), activation)


@pytest.mark.parametrize("channels_last", [False, True], ids=["", "channels last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_layout(
    backend: KernelBackend, dtype: torch.dtype, shape: tuple[int, ...], channels_last: bool
) -> None:
    if channels_last and len(shape) < 3:
        return
    if math.prod(shape) > 1e5 and backend.name != "cpu":
        return
    problem = Problem.make(shape, dtype, residual=True, channels_last=channels_last)
    assert_right(backend, problem, "leaky_relu")
    without = Problem.make(shape, dtype, affine=False, channels_last=channels_last)
    assert_right(backend, without, "identity")


def test_tensors_with_gaps_and_orders_of_their_own(backend: KernelBackend) -> None:
    x = torch.randn(4, 6, 8, 10).to(backend.device)
    for strided in (x[:, ::2], x[..., 1:7], x.permute(3, 1, 2, 0), x.expand(4, 6, 8, 10)[:1]):
        got = G.batch_norm(strided, None, None, training=True)
        torch.testing.assert_close(
            got.cpu(), torch.nn.functional.batch_norm(strided.cpu(), None, None, training=True)
        )


def test_mean_far_larger_than_the_deviation(backend: KernelBackend) -> None:
    problem = Problem.make((16, 4, 8, 8), torch.float32, affine=False, mean=1e4, std=1e-2)
    want = reference(problem, "identity", eps=1e-12)[0]
    got = with_gradients(ours("identity", eps=1e-12), problem.on(backend.device))[0]
    assert error(got, want) * want.abs().max() < 1e-5
    native = torch.nn.functional.batch_norm(problem.x, None, None, training=True, eps=1e-12)
    assert (native - want).abs().max() > 1e-3  # what this is about


@pytest.mark.parametrize("layout", ["planes", "columns"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nonfinite_values_stay_in_their_channel(
    backend: KernelBackend, value: float, layout: str
) -> None:
    x = torch.randn(6, 5, 3) if layout == "planes" else torch.randn(18, 5)
    x[2, 3] = value
    y = G.batch_norm(x.to(backend.device), None, None, training=True).cpu()
    assert y[:, 3].isnan().all()
    assert y[:, [0, 1, 2, 4]].isfinite().all()


def test_bits_do_not_depend_on_threads() -> None:
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(statistics_bits())
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[1]


OTHER_ISAS = [
    isa for isa in gradkern.build_info()["cpu_isas"] if isa != gradkern.build_info()["cpu_isa"]
]


@pytest.mark.parametrize("isa", OTHER_ISAS)
def test_under_each_instruction_set(isa: str) -> None:
    program = Path(__file__).with_name("batch_norm_bits.py")
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "GRADKERN_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["cpu_isa"] == isa
    assert report["bits"] == statistics_bits()
    for name, (worst, limit) in report["errors"].items():
        assert worst <= limit, name


@pytest.mark.parametrize("activation", ["identity", "elu", "silu"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_gradcheck_and_gradgradcheck(training: bool, activation: str) -> None:
    problem = Problem.make((3, 2, 2, 2), torch.float64, residual=True)
    running = torch.randn(2, dtype=torch.float64), torch.rand(2, dtype=torch.float64) + 1

    def function(*tensors: Tensor) -> Tensor:
        x, residual, weight, bias = tensors
        statistics = (None, None) if training else running
        return G.batch_norm(
            x, *statistics, weight, bias, training, activation=activation, residual=residual
        )

    inputs = [t.requires_grad_() for t in problem.tensors if t is not None]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_transformations(training: bool) -> None:
    x = torch.randn(4, 3, dtype=torch.float64)
    running = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)

    def mine(x: Tensor) -> Tensor:
        statistics = (None, None) if training else running
        return G.batch_norm(x, *statistics, training=training, activation="silu").square().sum()

    def native(x: Tensor) -> Tensor:
        statistics = (None, None) if training else running
        y = torch.nn.functional.batch_norm(x, *statistics, training=training)
        return torch.nn.functional.silu(y).square().sum()

    for transform in (torch.func.grad, torch.func.jacrev, torch.func.hessian):
        torch.testing.assert_close(transform(mine)(x), transform(native)(x))
    _, tangent = torch.func.jvp(mine, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, torch.func.jvp(native, (x,), (torch.ones_like(x),))[1])


def test_compiles_as_one_graph() -> None:
    torch._dynamo.reset()
    problem = Problem.make((4, 3, 5), torch.float32, residual=True)

    def step(running: tuple[Tensor, Tensor]) -> object:
        return ours("gelu", running=running)

    eager = torch.zeros(3), torch.ones(3)
    compiled = torch.zeros(3), torch.ones(3)
    want = with_gradients(step(eager), problem)
    traced = torch.compile(step(compiled), fullgraph=True, backend="aot_eager")
    got = with_gradients(traced, problem)
    for mine, true in zip((got[0], *got[1]), (want[0], *want[1]), strict=True):
        torch.testing.assert_close(mine, true)
    for mine, true in zip(compiled, eager, strict=True):
        torch.testing.assert_close(mine, true)
    evaluation = ours("gelu", running=eager, training=False)
    got = with_gradients(torch.compile(evaluation, fullgraph=True, backend="aot_eager"), problem)
    want = with_gradients(evaluation, problem)
    for mine, true in zip((got[0], *got[1]), (want[0], *want[1]), strict=True):
        torch.testing.assert_close(mine, true)
    torch._dynamo.reset()


@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["", "channels last"])
def test_opcheck(residual: bool, channels_last: bool) -> None:
    problem = Problem.make(
        (4, 3, 2, 2), torch.bfloat16, residual=residual, channels_last=channels_last
    )
    x, r, w, b = problem.tensors
    g, activation = problem.grad, (1, 0.0)
    mean, invstd = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    running = torch.zeros(3), torch.ones(3)
    ops = torch.ops.gradkern
    checks = ("test_schema", "test_faketensor")
    for operator, arguments in (
        (ops.batch_norm_training, (x, r, w, b, *running, 0.1, 1e-5, *activation)),
        (ops.batch_norm_training, (x, r, w, b, None, None, 0.0, 1e-5, *activation)),
        (ops.batch_norm_normalise, (x, r, w, b, mean, invstd, *activation)),
        (ops.batch_norm_moments, (x,)),
        (ops.batch_norm_sums, (g, x, r, w, b, mean, invstd, *activation)),
        (ops.batch_norm_backward, (g, x, r, w, b, mean, invstd, *activation, residual)),
        (
            ops.batch_norm_input_gradient,
            (g, x, r, w, b, mean, invstd, mean, mean, 4.0, *activation, residual),
        ),
    ):
        torch.library.opcheck(operator.default, arguments, test_utils=checks)


def test_raw_functions_are_those_of_autograd(backend: KernelBackend) -> None:
    problem = Problem.make((5, 4, 6), torch.float32, residual=True).on(backend.device)
    want, gradients = with_gradients(ours("elu"), problem)
    _, residual, weight, bias = problem.tensors
    y, mean, invstd = G.batch_norm_forward(
        problem.x, weight, bias, residual=residual, activation="elu"
    )
    assert torch.equal(y, want)
    assert mean.dtype == invstd.dtype == torch.float64
    dx, dweight, dbias, dresidual = G.batch_norm_backward(
        problem.grad,
        problem.x,
        weight,
        mean,
        invstd,
        bias=bias,
        residual=residual,
        activation="elu",
    )
    for got, true in zip((dx, dresidual, dweight.float(), dbias.float()), gradients, strict=True):
        assert torch.equal(got, true)


def test_empty_batch_in_evaluation() -> None:
    running = torch.zeros(3), torch.ones(3)
    x = torch.empty(0, 3, 4, requires_grad=True)
    y = G.batch_norm(x, *running)
    assert y.shape == (0, 3, 4)
    y.sum().backward()
    assert x.grad is not None


def test_what_is_not_ours_is_natives() -> None:
    running = torch.zeros(2, dtype=torch.complex64), torch.ones(2, dtype=torch.complex64)
    with pytest.raises(RuntimeError):
        G.batch_norm(torch.ones(3, 2, dtype=torch.int32), None, None, training=True)
    meta = G.batch_norm(torch.ones(3, 2, device="meta"), None, None, training=True)
    assert meta.device.type == "meta"
    assert running[0].is_complex()


class TestBadInput:
    x = torch.randn(4, 3)
    running = torch.zeros(3), torch.ones(3)

    def test_one_value_per_channel(self) -> None:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            G.batch_norm(self.x[:1], None, None, training=True)

    def test_activation(self) -> None:
        with pytest.raises(ValueError, match="activation is 'swish'; it must be one of identity"):
            G.batch_norm(self.x, None, None, training=True, activation="swish")
        with pytest.raises(ValueError, match="activation_parameter is 2; it must be None for relu"):
            G.batch_norm(
                self.x, None, None, training=True, activation="relu", activation_parameter=2
            )
        with pytest.raises(TypeError, match="activation_parameter is a str; it must be a real"):
            G.batch_norm(
                self.x, None, None, training=True, activation="elu", activation_parameter="x"
            )

    def test_residual(self) -> None:
        with pytest.raises(ValueError, match=r"residual has shape \(4, 1\); it must have \(4, 3\)"):
            G.batch_norm(self.x, None, None, training=True, residual=self.x[:, :1])
        with pytest.raises(ValueError, match="residual must have the dtype"):
            G.batch_norm(self.x, None, None, training=True, residual=self.x.double())

    def test_parameters(self) -> None:
        before = self.running[0].clone()
        with pytest.raises(ValueError, match="weight has 2 elements in 1 dimensions; it must have"):
            G.batch_norm(self.x, *self.running, weight=torch.ones(2), training=True)
        with pytest.raises(ValueError, match="bias must have the dtype of weight"):
            G.batch_norm(self.x, None, None, torch.ones(3), torch.ones(3).double(), training=True)
        assert torch.equal(self.running[0], before)

    def test_statistics(self) -> None:
        with pytest.raises(RuntimeError, match="running_mean is None; it must be a tensor"):
            G.batch_norm(self.x, None, None)
        with pytest.raises(RuntimeError, match="running_var is None"):
            G.batch_norm(self.x, torch.zeros(3), None, training=True)

    def test_eps(self) -> None:
        with pytest.raises(ValueError, match="eps is -1"):
            G.batch_norm(self.x, *self.running, eps=-1.0)

    def test_dimensions_and_type(self) -> None:
        with pytest.raises(ValueError, match="input has 1 dimensions"):
            G.batch_norm(torch.ones(3), None, None, training=True)
        with pytest.raises(TypeError, match="input is a list"):
            G.batch_norm([1.0], None, None, training=True)  # type: ignore[arg-type]

    def test_gradients_of_raw_functions(self) -> None:
        with pytest.raises(RuntimeError, match="x requires grad"):
            G.batch_norm_forward(self.x.clone().requires_grad_())
