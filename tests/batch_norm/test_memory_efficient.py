"""memory_efficient=True: gradients from the output, on every backend."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from batch_norm_reference import Problem, activate, error, with_gradients
from kernel_backend import KernelBackend
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import gradkern
import gradkern.functional as G  # noqa: N812

ACTIVATIONS = ("identity", "leaky_relu", "elu")
EPS = 1e-5


def ours(activation: str, training: bool = True, running: tuple[Tensor, Tensor] | None = None):
    mean, var = running or (None, None)

    def function(
        x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        return G.batch_norm(
            x,
            mean,
            var,
            weight,
            bias,
            training,
            activation=activation,
            residual=residual,
            memory_efficient=True,
        )

    return function


def of_native(activation: str, training: bool = True, running: tuple[Tensor, Tensor] | None = None):
    mean, var = running or (None, None)

    def function(
        x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        weight = None if weight is None else weight.abs() + EPS
        return activate(activation, F.batch_norm(x, mean, var, weight, bias, training, 0.1, EPS))

    return function


def doubled(problem: Problem) -> Problem:
    tensors = (*problem.tensors, problem.grad)
    return Problem(*(None if t is None else t.double() for t in tensors))  # type: ignore[arg-type]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("channels_last", [False, True], ids=["", "channels last"])
@pytest.mark.parametrize("shape", [(6, 3, 5, 5), (9, 20, 1), (2, 3, 600), (40, 5, 2, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients_are_those_from_the_input(
    backend: KernelBackend,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    channels_last: bool,
    activation: str,
) -> None:
    # What a saturated elu has lost of its argument depends on how far it saturates: up to -3 here.
    problem = Problem.make(shape, dtype, channels_last=channels_last)
    assert problem.weight is not None
    problem.weight = problem.weight.clamp(-2, 2)
    problem.weight[0] = -problem.weight[0].abs()
    limit = 1e-4 if dtype == torch.float32 else 1e-11
    running = torch.zeros(shape[1]), torch.full((shape[1],), 9.0)
    here = running[0].to(backend.device), running[1].to(backend.device)
    for training in (True, False):
        given = None if training else here
        got = with_gradients(ours(activation, training, given), problem.on(backend.device))
        seen = None if training else (running[0].double(), running[1].double())
        want = with_gradients(of_native(activation, training, seen), doubled(problem))
        assert error(got[0], want[0]) <= 2e-6
        for mine, true in zip(got[1], want[1], strict=True):
            assert error(mine, true) <= limit


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("affine", [True, False], ids=["", "no weight"])
@pytest.mark.parametrize("training", [True, False], ids=["", "evaluation"])
def test_gradcheck(activation: str, affine: bool, training: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    running = torch.zeros(3).double(), torch.ones(3).double()
    weight = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    bias = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        return G.batch_norm(
            x,
            *(running if not training else (None, None)),
            *(parameters or (None, None)),
            training=training,
            activation=activation,
            activation_parameter=None if activation == "identity" else 0.7,
            memory_efficient=True,
        )

    assert torch.autograd.gradcheck(function, (x, weight, bias) if affine else (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("alpha", [1.0, 0.3, 4.0])
def test_elu_that_gives_minus_alpha(
    backend: KernelBackend, dtype: torch.dtype, alpha: float
) -> None:
    # A column of outliers: the lowest are far below what the exponential can tell from -1.
    x = torch.cat([torch.zeros(996, dtype=dtype), torch.tensor([-9.0, -8, 7, 9], dtype=dtype)])
    x = x.view(-1, 1).to(backend.device).requires_grad_()
    weight = torch.full((1,), 3.0, dtype=dtype).to(backend.device).requires_grad_()
    y = G.batch_norm(
        x,
        None,
        None,
        weight,
        None,
        training=True,
        activation="elu",
        activation_parameter=alpha,
        memory_efficient=True,
    )
    assert (y.min() == torch.tensor(-alpha, dtype=dtype)).item()
    grad = torch.ones_like(y)
    got = torch.autograd.grad(y, (x, weight), grad)
    assert all(g.isfinite().all() for g in got)
    reference = x.detach().cpu().double().requires_grad_()
    of_weight = torch.full((1,), 3.0).double().requires_grad_()
    z = F.batch_norm(reference, None, None, of_weight + EPS, None, training=True)
    want = torch.autograd.grad(F.elu(z, alpha).sum(), (reference, of_weight))
    # What the two outliers' normalised values are is lost; their own derivatives are 0 to rounding.
    healthy = slice(0, 996)
    assert error(got[0][healthy], want[0][healthy]) < 1e-3
    assert error(got[1], want[1]) < 1e-3


def test_nan_stays_in_its_channel(backend: KernelBackend) -> None:
    for activation in ACTIVATIONS:
        x = torch.randn(8, 3, 9)
        x[0, 1, 0] = torch.nan
        x = x.to(backend.device).requires_grad_()
        y = G.batch_norm(x, None, None, training=True, activation=activation, memory_efficient=True)
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert grad[:, 1].isnan().all()
        assert grad[:, [0, 2]].isfinite().all()


def test_weight_that_is_zero_or_negative() -> None:
    x = torch.randn(16, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([0.0, -0.5, 1.0], dtype=torch.float64, requires_grad=True)
    y = G.batch_norm(x, None, None, weight, None, training=True, memory_efficient=True)
    want = F.batch_norm(x, None, None, weight.abs() + EPS, None, training=True)
    torch.testing.assert_close(y, want)
    got, true = (torch.autograd.grad(v.square().sum(), (x, weight)) for v in (y, want))
    for mine, native in zip(got, true, strict=True):
        torch.testing.assert_close(mine, native, rtol=1e-6, atol=1e-8)


def saved(layer: nn.Module, x: Tensor) -> list[Tensor]:
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        output = layer(x)
    return [*kept, output]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_output_is_kept_and_the_input_is_not(activation: str) -> None:
    x = torch.randn(8, 4, 6, 6, requires_grad=True)
    for efficient in (False, True):
        layer = gradkern.nn.BatchNorm2d(4, activation=activation, memory_efficient=efficient)
        *kept, output = saved(layer, x)
        places = {t.data_ptr() for t in kept}
        assert (x.data_ptr() in places) is not efficient
        assert (output.data_ptr() in places) is efficient


@pytest.mark.parametrize(
    ("activation", "native", "efficient"),
    [("relu", 9, None), ("silu", 12, None), ("leaky_relu", 12, 5), ("elu", 12, 5)],
)
def test_tensors_kept_by_a_stack(activation: str, native: int, efficient: int | None) -> None:
    measure = pytest.importorskip("benchmarks.batch_norm_memory").measure
    # Of four layers: native keeps the inputs of the convolution, of the normalisation, and of the
    # activation, if that is not its output.
    of_native, ours = measure(activation, "native", 4), measure(activation, "gradkern", 4)
    assert of_native.saved == native
    assert ours.saved == 8
    assert ours.forward < of_native.forward
    assert ours.step < of_native.step + 0.01  # statistics of the channels are float64
    if efficient is not None:
        least = measure(activation, "memory-efficient", 4)
        assert least.saved == efficient
        assert least.step < ours.step - 2


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_compiled_whole(activation: str) -> None:
    layer = gradkern.nn.BatchNorm2d(4, activation=activation, memory_efficient=True)
    other = copy.deepcopy(layer)
    compiled = torch.compile(other, fullgraph=True)
    x = torch.randn(4, 4, 6, 6)
    gradients = []
    for module in (layer, compiled):
        leaf = x.clone().requires_grad_()
        module(leaf).square().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.weight.grad, other.weight.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.running_var, other.running_var)


def test_module_travels() -> None:
    layer = gradkern.nn.BatchNorm2d(
        4, activation="elu", activation_parameter=0.5, memory_efficient=True
    )
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.memory_efficient
    assert "activation_parameter=0.5, memory_efficient=True" in repr(layer)
    assert layer.state_dict().keys() == nn.BatchNorm2d(4).state_dict().keys()
    synchronised = gradkern.nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    assert synchronised.memory_efficient


def test_an_output_that_is_changed_is_noticed() -> None:
    x = torch.randn(8, 4, requires_grad=True)
    y = G.batch_norm(x, None, None, training=True, memory_efficient=True)
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_no_second_derivatives() -> None:
    x = torch.randn(8, 4, requires_grad=True)
    y = G.batch_norm(x, None, None, training=True, memory_efficient=True)
    with pytest.raises(RuntimeError, match="memory_efficient is True; it must be False"):
        torch.autograd.grad(y.square().sum(), x, create_graph=True)


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu"])
def test_refused_for_what_can_not_be_undone(activation: str) -> None:
    with pytest.raises(ValueError, match=f"activation is '{activation}'; with memory_efficient"):
        gradkern.nn.BatchNorm1d(3, activation=activation, memory_efficient=True)
    with pytest.raises(ValueError, match=f"activation is '{activation}'; with memory_efficient"):
        G.batch_norm(
            torch.randn(4, 3),
            None,
            None,
            training=True,
            activation=activation,
            memory_efficient=True,
        )


@pytest.mark.parametrize("activation", ["leaky_relu", "elu"])
@pytest.mark.parametrize("parameter", [0.0, -1.0, float("nan")])
def test_refused_for_parameters_that_fold(activation: str, parameter: float) -> None:
    with pytest.raises(ValueError, match=r"activation_parameter is .*must be positive"):
        gradkern.nn.BatchNorm1d(
            3, activation=activation, activation_parameter=parameter, memory_efficient=True
        )


def test_refused_with_a_residual_and_for_few_bits() -> None:
    layer = gradkern.nn.BatchNorm1d(3, memory_efficient=True)
    x = torch.randn(16, 3)
    with pytest.raises(ValueError, match="residual is a tensor; with memory_efficient"):
        layer(x, x)
    for dtype in (torch.bfloat16, torch.float16):
        with pytest.raises(TypeError, match=f"input is {dtype}; with memory_efficient"):
            layer(x.to(dtype))


def test_operators_refuse_what_they_can_not_do() -> None:
    x, numbers = torch.randn(8, 3), torch.ones(3).double()
    row = gradkern.batch_norm.OF_OUTPUT["elu"]
    gradient = torch.ops.gradkern.batch_norm_sums
    with pytest.raises(ValueError, match="activation is 7; it must be a row"):
        torch.ops.gradkern.batch_norm_normalise(x, None, None, None, numbers, numbers, 7, 1.0)
    with pytest.raises(ValueError, match="residual is a tensor; it must be None"):
        gradient(x, x, x, None, None, numbers, numbers, row, 1.0)
    with pytest.raises(ValueError, match="input is a 16-bit output"):
        gradient(x.half(), x.half(), None, None, None, numbers, numbers, row, 1.0)


def test_not_fused_with_what_follows() -> None:
    model = nn.Sequential(gradkern.nn.BatchNorm1d(3, memory_efficient=True), nn.LeakyReLU())
    result = gradkern.nn.fuse_batch_norm(model.train())
    assert not result.fused
    assert result.left == {"0": "it keeps its output for backward"}
