"""defer_clip_grad_norm_ against torch's clip_grad_norm_ followed by the same fused step."""

from __future__ import annotations

import copy
import functools
import gc
import math
import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from kernel_backend import KernelBackend
from torch import Tensor, distributed, nn
from torch.amp import GradScaler
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

import gradkern
from gradkern import defer_clip_grad_norm_

# Taken here, so that nothing these tests compare against can be gradkern's own.
native_clip_grad_norm_ = torch.nn.utils.clip_grad_norm_
native_get_total_norm = torch.nn.utils.get_total_norm

MAX_NORM = 0.7
# Totals on both sides of MAX_NORM, so that the coefficient changes from step to step. One constant
# coefficient would tell nothing about Adam, whose step does not depend on the gradients' scale.
LOSS_FACTORS = (1.0, 40.0, 0.02, 300.0, 5.0, 0.5)

ADAGRAD_TAKES_GRAD_SCALE = hasattr(
    Adagrad([torch.zeros(1)], fused=True), "_step_supports_amp_scaling"
)
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "Adam": functools.partial(Adam, lr=0.02, fused=True),
    "Adam, amsgrad": functools.partial(Adam, lr=0.02, amsgrad=True, weight_decay=0.1, fused=True),
    "AdamW": functools.partial(AdamW, lr=0.02, weight_decay=0.1, fused=True),
    "SGD": functools.partial(SGD, lr=0.1, fused=True),
    "SGD, momentum": functools.partial(
        SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1, fused=True
    ),
    "SGD, maximize": functools.partial(SGD, lr=0.1, momentum=0.9, maximize=True, fused=True),
    "foreach=False": functools.partial(SGD, lr=0.1, momentum=0.9, foreach=False, fused=True),
}
if ADAGRAD_TAKES_GRAD_SCALE:
    OPTIMIZERS["Adagrad"] = functools.partial(Adagrad, lr=0.1, fused=True)

every_optimizer = pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(20)
        return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)).to(dtype)


def loss_of(model: nn.Module, factor: float) -> Tensor:
    like = next(model.parameters())
    x = torch.linspace(-2, 2, 30, dtype=like.dtype, device=like.device).reshape(5, 6)
    return factor * model(x).square().mean()


def weights(*values: float, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=dtype))


def with_gradient(*gradient: float, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    """A parameter of ones that has this gradient."""
    parameter = nn.Parameter(torch.ones(len(gradient), dtype=dtype))
    parameter.grad = torch.tensor(gradient, dtype=dtype)
    return parameter


def own_parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def parameters_and_state(optimizer: Optimizer) -> list[Tensor]:
    parameters = own_parameters(optimizer)
    state = [
        value
        for parameter in parameters
        for _, value in sorted(optimizer.state[parameter].items())
        if isinstance(value, Tensor)
    ]
    return [tensor.detach().clone() for tensor in (*parameters, *state)]


def everything(optimizer: Optimizer) -> list[Tensor]:
    gradients = [p.grad.clone() for p in own_parameters(optimizer) if p.grad is not None]
    return [*gradients, *parameters_and_state(optimizer)]


def hooks_of(optimizer: Optimizer) -> list[Any]:
    return [
        *optimizer._optimizer_step_pre_hooks.values(),
        *optimizer._optimizer_step_post_hooks.values(),
    ]


def assert_nothing_pending(optimizer: Optimizer) -> None:
    assert hooks_of(optimizer) == []
    for left in ("grad_scale", "found_inf"):
        assert left not in vars(optimizer)
    assert not [name for name in vars(optimizer) if "gradkern" in name]


def assert_same(ours: Any, native: Any, rtol: float = 1e-6) -> None:
    """Equal to rounding, element by element."""
    torch.testing.assert_close(ours, native, rtol=rtol, atol=0, equal_nan=True)


def assert_same_training(ours: list[Tensor], native: list[Tensor], rtol: float = 2e-6) -> None:
    """Equal to rounding, tensor by tensor: an element near 0 inherits the rounding of the others,
    through the network that computed it."""
    for our_tensor, native_tensor in zip(ours, native, strict=True):
        largest = float(native_tensor.abs().max().nan_to_num(posinf=0))
        torch.testing.assert_close(our_tensor, native_tensor, rtol=rtol, atol=rtol * largest)


Clip = Callable[[Optimizer], Tensor]


def train(
    make_optimizer: Callable[..., Optimizer], clip: Clip, dtype: torch.dtype = torch.float32
) -> Iterator[list[Tensor]]:
    """The total, and everything the optimizer holds, after each step."""
    model = network(dtype)
    optimizer = make_optimizer(model.parameters())
    for factor in LOSS_FACTORS:
        optimizer.zero_grad()
        loss_of(model, factor).backward()
        total_norm = clip(optimizer)
        optimizer.step()
        assert_nothing_pending(optimizer)
        yield [total_norm, *everything(optimizer)]


def native_clip(optimizer: Optimizer, max_norm: Any = MAX_NORM, **kwargs: Any) -> Tensor:
    return native_clip_grad_norm_(own_parameters(optimizer), max_norm, **kwargs)


class TestTraining:
    @every_optimizer
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_equals_clipping_before_the_step(
        self, make_optimizer: Callable[..., Optimizer], dtype: torch.dtype
    ) -> None:
        native = list(train(make_optimizer, native_clip, dtype))
        ours = list(train(make_optimizer, lambda o: defer_clip_grad_norm_(o, MAX_NORM), dtype))
        for step, (our_step, native_step) in enumerate(zip(ours, native, strict=True)):
            # A float32 divisor is off by up to 6e-8, in each of six steps.
            assert_same_training(our_step, native_step, 2e-6 if dtype is torch.float32 else 4e-7)
            assert len(our_step) > 8, f"nothing compared in step {step}"
        totals = [float(step[0]) for step in native]
        assert min(totals) < MAX_NORM < max(totals), "one side of max_norm was never tried"

    @every_optimizer
    def test_equals_gradkerns_own_clipping(self, make_optimizer: Callable[..., Optimizer]) -> None:
        eager = train(
            make_optimizer, lambda o: gradkern.clip_grad_norm_(own_parameters(o), MAX_NORM)
        )
        ours = train(make_optimizer, lambda o: defer_clip_grad_norm_(o, MAX_NORM))
        for our_step, eager_step in zip(ours, eager, strict=True):
            assert_same_training(our_step, eager_step)

    @pytest.mark.parametrize("norm_type", [1, 2.0, 3.5, 0, -1, math.inf, "inf", -math.inf])
    def test_orders_of_the_norm(self, norm_type: Any) -> None:
        def native(optimizer: Optimizer) -> Tensor:
            return native_clip(optimizer, norm_type=float(norm_type))

        def ours(optimizer: Optimizer) -> Tensor:
            return defer_clip_grad_norm_(optimizer, MAX_NORM, norm_type)

        steps = zip(train(OPTIMIZERS["SGD"], ours), train(OPTIMIZERS["SGD"], native), strict=True)
        for our_step, native_step in steps:
            assert_same_training(our_step, native_step)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_reduced_precision(self, dtype: torch.dtype) -> None:
        gradient = torch.linspace(-3, 5, 200).to(dtype)
        parameter = with_gradient(*gradient.tolist(), dtype=dtype)
        optimizer = Adam([parameter], betas=(0.5, 0.5), fused=True)
        total_norm = defer_clip_grad_norm_(optimizer, MAX_NORM)
        optimizer.step()
        exact = gradient.double().norm()
        clipped = gradient.double() * (MAX_NORM / exact)
        eps = torch.finfo(dtype).eps
        assert total_norm.dtype is dtype
        assert_same(total_norm.double(), exact, rtol=eps)
        assert_same(parameter.grad.double(), clipped, rtol=eps)
        assert_same(optimizer.state[parameter]["exp_avg"].double(), clipped / 2, rtol=eps)

    def test_a_step_without_a_call_is_a_normal_step(self) -> None:
        def sometimes(clip: Clip) -> Clip:
            calls = iter(range(len(LOSS_FACTORS)))
            return lambda o: clip(o) if next(calls) % 2 else torch.tensor(0.0)

        ours = train(OPTIMIZERS["Adam"], sometimes(lambda o: defer_clip_grad_norm_(o, MAX_NORM)))
        native = train(OPTIMIZERS["Adam"], sometimes(native_clip))
        for our_step, native_step in zip(ours, native, strict=True):
            assert_same_training(our_step, native_step)

    def test_learning_rate_schedulers_and_other_hooks_go_on(self) -> None:
        parameter = with_gradient(30.0, 40.0)
        optimizer = SGD([parameter], lr=1.0, fused=True)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        seen: list[str] = []
        optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
        optimizer.register_step_post_hook(lambda *_: seen.append("after"))
        before = hooks_of(optimizer)
        for _ in range(2):
            parameter.grad = torch.tensor([30.0, 40.0])
            defer_clip_grad_norm_(optimizer, 5.0)
            optimizer.step()
            scheduler.step()
        assert seen == ["before", "after"] * 2
        assert hooks_of(optimizer) == before
        assert_same(parameter.detach(), torch.tensor([1 - 3 - 1.5, 1 - 4 - 2.0]))


class TestTheCall:
    def test_hands_over_the_divisor_and_leaves_the_gradients_alone(self) -> None:
        parameter = with_gradient(30.0, 40.0)
        before, version = parameter.grad.clone(), parameter.grad._version
        optimizer = SGD([parameter], lr=1.0, fused=True)
        total_norm = defer_clip_grad_norm_(optimizer, 5.0)
        assert torch.equal(parameter.grad, before)
        assert parameter.grad._version == version
        assert total_norm.shape == ()
        assert total_norm == 50
        assert not total_norm.requires_grad
        assert optimizer.grad_scale.dtype is torch.float32
        assert optimizer.grad_scale.shape == ()
        assert_same(optimizer.grad_scale, torch.tensor(10.0))
        optimizer.step()
        assert_same(parameter.grad, torch.tensor([3.0, 4.0]))  # written back by the fused step

    def test_a_divisor_of_exactly_1_where_nothing_is_clipped(self) -> None:
        optimizer = SGD([with_gradient(3.0, 4.0)], lr=1.0, fused=True)
        defer_clip_grad_norm_(optimizer, 5.1)
        assert optimizer.grad_scale == 1

    def test_a_second_call_replaces_the_first(self) -> None:
        parameter = with_gradient(30.0, 40.0)
        optimizer = SGD([parameter], lr=1.0, fused=True)
        defer_clip_grad_norm_(optimizer, 0.001)
        parameter.grad = torch.tensor([6.0, 8.0])
        assert defer_clip_grad_norm_(optimizer, 5.0) == 10
        assert len(hooks_of(optimizer)) == 2
        optimizer.step()
        assert_same(parameter.grad, torch.tensor([3.0, 4.0]))
        assert_nothing_pending(optimizer)

    @pytest.mark.parametrize(
        "max_norm",
        [-2.0, 0.0, math.nan, math.inf, -math.inf, "1.0", torch.tensor(1.5), 1, 1e-30, 1e30],
        ids=str,
    )
    @pytest.mark.parametrize(
        "gradient",
        [(3.0, -4.0, 0.0), (0.0, -0.0), (math.inf, 1.0, -2.0), (math.nan, 1.0), (1e-20, 0.0)],
        ids=str,
    )
    def test_any_max_norm_and_nonfinite_gradients(
        self, max_norm: Any, gradient: tuple[float, ...]
    ) -> None:
        results = []
        for clip in (native_clip, defer_clip_grad_norm_):
            optimizer = SGD([with_gradient(*gradient)], lr=0.5, fused=True)
            total_norm = clip(optimizer, max_norm)
            optimizer.step()
            assert_nothing_pending(optimizer)
            results.append([total_norm, *everything(optimizer)])
        native, ours = results
        if gradient == (1e-20, 0.0):  # its square underflows in float32: native's norm is wrong
            assert_same(ours[0], torch.tensor(1e-20))
            native[0] = ours[0]
        assert_same(ours, native)
        for our_tensor, native_tensor in zip(ours[1:], native[1:], strict=True):
            zero = native_tensor == 0
            assert torch.equal(our_tensor[zero].signbit(), native_tensor[zero].signbit())

    @every_optimizer
    @pytest.mark.parametrize("bad", [math.inf, math.nan])
    def test_nonfinite_gradients_reach_the_state_as_native_lets_them(
        self, make_optimizer: Callable[..., Optimizer], bad: float
    ) -> None:
        results = []
        for clip in (native_clip, lambda o: defer_clip_grad_norm_(o, MAX_NORM)):
            optimizer = make_optimizer([with_gradient(3.0, bad, 0.0), with_gradient(1.0, 2.0)])
            total_norm = clip(optimizer)
            optimizer.step()
            results.append([total_norm, *everything(optimizer)])
        assert_same(*results)

    @pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
    def test_error_if_nonfinite(self, bad: float) -> None:
        parameter = with_gradient(3.0, 4.0)
        optimizer = SGD([parameter], lr=1.0, fused=True)
        defer_clip_grad_norm_(optimizer, 2.5)
        earlier = optimizer.grad_scale
        parameter.grad[0] = bad
        message = "The total norm of order 2.0 for gradients from `parameters` is non-finite"
        with pytest.raises(RuntimeError, match=message):
            native_clip(optimizer, 1.0, error_if_nonfinite=True)
        with pytest.raises(RuntimeError, match=message):
            defer_clip_grad_norm_(optimizer, 1.0, error_if_nonfinite=True)
        assert optimizer.grad_scale is earlier
        assert len(hooks_of(optimizer)) == 2
        assert parameter.grad[1] == 4

    def test_error_if_nonfinite_accepts_finite_gradients(self) -> None:
        optimizer = SGD([with_gradient(3.0, 4.0)], lr=1.0, fused=True)
        assert defer_clip_grad_norm_(optimizer, 1.0, error_if_nonfinite=True) == 5

    def test_frees_gradients_that_are_set_to_none(self) -> None:
        parameter = with_gradient(3.0, 4.0)
        gradient = weakref.ref(parameter.grad)
        optimizer = SGD([parameter], lr=1.0, fused=True)
        defer_clip_grad_norm_(optimizer, 1.0)
        optimizer.zero_grad()
        gc.collect()
        assert gradient() is None

    def test_keeps_no_optimizer_alive(self) -> None:
        optimizer = SGD([with_gradient(3.0, 4.0)], lr=1.0, fused=True)
        defer_clip_grad_norm_(optimizer, 1.0)
        gone = weakref.ref(optimizer)
        del optimizer
        gc.collect()
        assert gone() is None


class TestParameters:
    def test_several_groups_and_parameters_without_gradients(self) -> None:
        results = []
        for clip in (native_clip, defer_clip_grad_norm_):
            optimizer = Adam(
                [
                    {"params": [weights(1.0, 2.0), with_gradient(30.0, 40.0)], "lr": 0.1},
                    {"params": [with_gradient(1.0)], "weight_decay": 0.2},
                    {"params": [weights(5.0)]},
                ],
                lr=0.5,
                fused=True,
            )
            total_norm = clip(optimizer, 0.3)
            optimizer.step()
            results.append([total_norm, *everything(optimizer)])
        assert_same(*results)

    def test_no_gradients_at_all(self) -> None:
        parameter = weights(1.0, 2.0)
        optimizer = SGD([parameter], lr=1.0, fused=True)
        total_norm = defer_clip_grad_norm_(optimizer, 1.0)
        native = native_clip(optimizer)
        assert torch.equal(total_norm, native)
        assert total_norm.dtype is native.dtype
        assert_nothing_pending(optimizer)
        optimizer.step()
        assert torch.equal(parameter.detach(), torch.tensor([1.0, 2.0]))

    def test_no_gradients_at_all_still_replaces(self) -> None:
        parameter = with_gradient(3.0, 4.0)
        optimizer = SGD([parameter], lr=1.0, fused=True)
        defer_clip_grad_norm_(optimizer, 1.0)
        parameter.grad = None
        defer_clip_grad_norm_(optimizer, 1.0)
        assert_nothing_pending(optimizer)

    @pytest.mark.parametrize(
        "dtypes",
        [
            (torch.float32, torch.bfloat16),
            (torch.bfloat16, torch.float16),
            (torch.float64, torch.float32, torch.float16),
            (torch.bfloat16, torch.bfloat16),
        ],
        ids=str,
    )
    def test_mixed_dtypes(self, dtypes: tuple[torch.dtype, ...]) -> None:
        def optimizer_with_gradients() -> Optimizer:
            parameters = [with_gradient(3.0 + i, -4.0, dtype=d) for i, d in enumerate(dtypes)]
            return SGD(parameters, lr=0.5, fused=True)

        ours, native = optimizer_with_gradients(), optimizer_with_gradients()
        our_total, native_total = defer_clip_grad_norm_(ours, 1.0), native_clip(native, 1.0)
        assert our_total.dtype is native_total.dtype
        ours.step()
        native.step()
        # Native rounds its norm, its coefficient and the clipped gradients to the narrow dtypes.
        eps = max(torch.finfo(dtype).eps for dtype in dtypes)
        assert_same(our_total, native_total, rtol=2 * eps)
        assert_same(everything(ours), everything(native), rtol=4 * eps)

    def test_widen_the_norm_over_two_optimizers(self) -> None:
        def two_optimizers() -> tuple[nn.Module, list[Optimizer]]:
            model = network()
            halves = [Adam(model[0].parameters(), lr=0.1, fused=True)]
            return model, [*halves, SGD(model[2].parameters(), lr=0.1, fused=True)]

        (model, ours), (native_model, native) = two_optimizers(), two_optimizers()
        for factor in LOSS_FACTORS:
            for network_, optimizers in ((model, ours), (native_model, native)):
                for optimizer in optimizers:
                    optimizer.zero_grad()
                loss_of(network_, factor).backward()
            native_total = native_clip_grad_norm_(native_model.parameters(), MAX_NORM)
            for optimizer in ours:
                total = defer_clip_grad_norm_(optimizer, MAX_NORM, parameters=model.parameters())
                assert_same(total, native_total)
            for our_optimizer, native_optimizer in zip(ours, native, strict=True):
                our_optimizer.step()
                native_optimizer.step()
                assert_nothing_pending(our_optimizer)
                assert_same_training(everything(our_optimizer), everything(native_optimizer))

    def test_the_optimizers_own_are_always_included_and_count_once(self) -> None:
        own, other = with_gradient(3.0), with_gradient(4.0)
        optimizer = SGD([own], lr=1.0, fused=True)
        for parameters in (other, [other], iter([other, own, other]), [other, weights(9.0)]):
            assert defer_clip_grad_norm_(optimizer, 1.0, parameters=parameters) == 5
        assert defer_clip_grad_norm_(optimizer, 1.0, parameters=[]) == 3

    def test_gradients_of_others_alone_defer_nothing(self) -> None:
        optimizer = SGD([weights(1.0)], lr=1.0, fused=True)
        assert defer_clip_grad_norm_(optimizer, 1.0, parameters=with_gradient(3.0, 4.0)) == 5
        assert_nothing_pending(optimizer)

    def test_complex_gradients_widen_to_a_real_norm(self) -> None:
        other = nn.Parameter(torch.ones(1, dtype=torch.complex64))
        other.grad = torch.tensor([3.0 + 4.0j])
        optimizer = SGD([with_gradient(12.0)], lr=1.0, fused=True)
        total_norm = defer_clip_grad_norm_(optimizer, 1.0, parameters=other)
        native = native_get_total_norm([other.grad, torch.tensor([12.0])])
        assert total_norm.dtype is native.dtype is torch.float32
        assert_same(total_norm, native)


class HostReads(TorchDispatchMode):
    """Records the operators that make the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal"}:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


class TestEveryBackend:
    """The same training with the norm from each of gradkern's kernels, on the device they serve."""

    @pytest.mark.parametrize("with_scaler", [False, True])
    def test_training(self, backend: KernelBackend, with_scaler: bool) -> None:
        results = []
        for clip in (unscale_and_clip, defer):
            model = network().to(backend.device)
            optimizer = AdamW(model.parameters(), lr=0.02, fused=True)
            scaler = GradScaler(backend.device.type, init_scale=1024.0, enabled=with_scaler)
            for factor in LOSS_FACTORS:
                optimizer.zero_grad()
                scaler.scale(loss_of(model, factor)).backward()
                total_norm = clip(optimizer, scaler)
                scaler.step(optimizer)
                scaler.update()
                assert_nothing_pending(optimizer)
            assert total_norm.device.type == backend.device.type
            results.append([total_norm, *everything(optimizer)])
        native, ours = results
        assert_same_training(ours, native)

    @pytest.mark.parametrize("with_scaler", [False, True])
    def test_the_host_does_not_wait(self, backend: KernelBackend, with_scaler: bool) -> None:
        model = network().to(backend.device)
        optimizer = Adam(model.parameters(), fused=True)
        scaler = GradScaler(backend.device.type, enabled=with_scaler)
        scaler.scale(loss_of(model, 1.0)).backward()
        with HostReads() as reads:
            defer_clip_grad_norm_(optimizer, 1.0, scaler=scaler)
        assert reads.seen == []

    def test_the_host_waits_for_error_if_nonfinite(self, backend: KernelBackend) -> None:
        model = network().to(backend.device)
        optimizer = Adam(model.parameters(), fused=True)
        loss_of(model, 1.0).backward()
        with HostReads() as reads:
            defer_clip_grad_norm_(optimizer, 1.0, error_if_nonfinite=True)
        assert len(reads.seen) == 1


class TestShardedGradients:
    @pytest.fixture
    def mesh(self) -> Iterator[DeviceMesh]:
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        yield init_device_mesh("cpu", (1,))
        distributed.destroy_process_group()

    @pytest.mark.parametrize("with_scaler", [False, True])
    def test_fully_shard(self, mesh: DeviceMesh, with_scaler: bool) -> None:
        results = []
        for clip in (unscale_and_clip, defer):
            model = network()
            fully_shard(model, mesh=mesh)
            optimizer = AdamW(model.parameters(), lr=0.02, fused=True)
            scaler = GradScaler("cpu", init_scale=1024.0, enabled=with_scaler)
            for factor in LOSS_FACTORS:
                optimizer.zero_grad()
                scaler.scale(loss_of(model, factor)).backward()
                total_norm = clip(optimizer, scaler)
                scaler.step(optimizer)
                scaler.update()
                assert_nothing_pending(optimizer)
            sharded = [total_norm, *everything(optimizer)]
            results.append([t.full_tensor() if isinstance(t, DTensor) else t for t in sharded])
        native, ours = results
        assert_same_training(ours, native)


def scaled_training(
    make_optimizer: Callable[..., Optimizer],
    clip: Callable[[Optimizer, GradScaler], Tensor],
    bad_step: int | None = None,
    enabled: bool = True,
) -> Iterator[list[Tensor]]:
    """As `train`, with a scaler whose scale grows every second step."""
    model = network()
    optimizer = make_optimizer(model.parameters())
    scaler = GradScaler(
        "cpu", init_scale=1024.0, growth_interval=2, growth_factor=4.0, enabled=enabled
    )
    for step, factor in enumerate(LOSS_FACTORS):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, factor)).backward()
        if step == bad_step:
            model[0].weight.grad[1, 1] = math.inf
        before = parameters_and_state(optimizer)
        total_norm = clip(optimizer, scaler)
        scaler.step(optimizer)
        scaler.update()
        assert_nothing_pending(optimizer)
        scale = torch.tensor(scaler.get_scale())
        if step == bad_step:
            # The gradients that a skipped step leaves behind are nobody's: native has clipped them.
            assert all(map(torch.equal, parameters_and_state(optimizer), before))
            yield [total_norm, scale, *parameters_and_state(optimizer)]
        else:
            yield [total_norm, scale, *everything(optimizer)]


def unscale_and_clip(optimizer: Optimizer, scaler: GradScaler) -> Tensor:
    scaler.unscale_(optimizer)
    return native_clip(optimizer)


def defer(optimizer: Optimizer, scaler: GradScaler) -> Tensor:
    return defer_clip_grad_norm_(optimizer, MAX_NORM, scaler=scaler)


def unscale_and_defer(optimizer: Optimizer, scaler: GradScaler) -> Tensor:
    scaler.unscale_(optimizer)
    return defer_clip_grad_norm_(optimizer, MAX_NORM, scaler=scaler)


def unscale_and_defer_without_naming_the_scaler(optimizer: Optimizer, scaler: GradScaler) -> Tensor:
    scaler.unscale_(optimizer)
    return defer_clip_grad_norm_(optimizer, MAX_NORM)


def defer_and_unscale(optimizer: Optimizer, scaler: GradScaler) -> Tensor:
    total_norm = defer_clip_grad_norm_(optimizer, MAX_NORM, scaler=scaler)
    scaler.unscale_(optimizer)
    return total_norm


class TestScaler:
    @every_optimizer
    @pytest.mark.parametrize(
        "clip",
        [
            defer,
            unscale_and_defer,
            unscale_and_defer_without_naming_the_scaler,
            defer_and_unscale,
        ],
    )
    # Not the first step: fused SGD would keep an uninitialised momentum buffer from it.
    @pytest.mark.parametrize("bad_step", [None, 3])
    def test_equals_unscaling_and_clipping(
        self, make_optimizer: Callable[..., Optimizer], clip: Any, bad_step: int | None
    ) -> None:
        native = list(scaled_training(make_optimizer, unscale_and_clip, bad_step))
        ours = list(scaled_training(make_optimizer, clip, bad_step))
        for our_step, native_step in zip(ours, native, strict=True):
            assert_same_training(our_step, native_step)
        scales = {float(step[1]) for step in native}
        assert len(scales) > 2, "the scale never changed"

    def test_disabled(self) -> None:
        ours = scaled_training(OPTIMIZERS["AdamW"], defer, enabled=False)
        native = scaled_training(OPTIMIZERS["AdamW"], unscale_and_clip, enabled=False)
        for our_step, native_step in zip(ours, native, strict=True):
            assert_same_training(our_step, native_step)

    @pytest.mark.parametrize("bad", [math.inf, math.nan])
    def test_nonfinite_gradients_skip_the_step_and_keep_it_recoverable(self, bad: float) -> None:
        parameter = with_gradient(0.0, 0.0)
        optimizer = Adam([parameter], lr=0.5, fused=True)
        scaler = GradScaler("cpu", init_scale=8.0)
        scaler.scale((parameter * torch.tensor([bad, 1.0])).sum()).backward()
        total_norm = defer_clip_grad_norm_(optimizer, 1.0, scaler=scaler)
        assert not total_norm.isfinite()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(parameter.detach(), torch.ones(2))
        assert scaler.get_scale() == 4
        assert_nothing_pending(optimizer)
        optimizer.zero_grad()
        scaler.scale((parameter * torch.tensor([30.0, 40.0])).sum()).backward()
        assert defer_clip_grad_norm_(optimizer, 5.0, scaler=scaler) == 50
        scaler.step(optimizer)
        assert_same(parameter.grad, torch.tensor([3.0, 4.0]))

    def test_order_0_counts_whatever_the_scale(self) -> None:
        parameter = weights(1.0, 2.0)
        optimizer = SGD([parameter, weights(1.0)], lr=1.0, fused=True)
        scaler = GradScaler("cpu", init_scale=1024.0)
        scaler.scale((parameter * torch.tensor([30.0, 40.0])).sum()).backward()
        assert defer_clip_grad_norm_(optimizer, 0.5, norm_type=0, scaler=scaler) == 1
        scaler.step(optimizer)
        assert_same(parameter.grad, torch.tensor([15.0, 20.0]))

    def test_float16_gradients_that_unscale_refuses(self) -> None:
        parameter = nn.Parameter(torch.ones(2, dtype=torch.float16))
        optimizer = SGD([parameter], lr=1.0, fused=True)
        scaler = GradScaler("cpu", init_scale=256.0)
        scaler.scale((parameter * torch.tensor([30.0, 40.0])).sum()).backward()
        assert defer_clip_grad_norm_(optimizer, 5.0, scaler=scaler) == 50
        scaler.step(optimizer)
        assert torch.equal(parameter.grad, torch.tensor([3.0, 4.0], dtype=torch.float16))

    def test_two_optimizers_under_one_scaler(self) -> None:
        first, second = weights(1.0), weights(1.0)
        optimizers = [SGD([p], lr=1.0, momentum=0.9, fused=True) for p in (first, second)]
        scaler = GradScaler("cpu", init_scale=64.0)
        scaler.scale(30 * first.sum() + 40 * second.sum()).backward()
        for optimizer in optimizers:
            total = defer_clip_grad_norm_(optimizer, 5.0, parameters=[first, second], scaler=scaler)
            assert total == 50
        for optimizer in optimizers:
            scaler.step(optimizer)
            assert_nothing_pending(optimizer)
        scaler.update()
        assert_same([first.grad, second.grad], [torch.tensor([3.0]), torch.tensor([4.0])])

    def test_leaves_the_scaler_as_it_is(self) -> None:
        parameter = weights(1.0)
        optimizer = SGD([parameter], lr=1.0, fused=True)
        scaler = GradScaler("cpu", init_scale=64.0)
        scaler.scale(parameter.sum()).backward()
        before = dict(vars(scaler))
        defer_clip_grad_norm_(optimizer, 5.0, scaler=scaler)
        assert vars(scaler) == before
        assert not scaler._per_optimizer_states
        pickle.dumps(scaler)  # fails where an optimizer's state was left in it

    def test_a_second_call_with_a_scaler_replaces_the_first(self) -> None:
        parameter = weights(1.0, 1.0)
        optimizer = SGD([parameter], lr=1.0, fused=True)
        scaler = GradScaler("cpu", init_scale=64.0)
        scaler.scale((parameter * torch.tensor([30.0, 40.0])).sum()).backward()
        defer_clip_grad_norm_(optimizer, 0.001, scaler=scaler)
        assert defer_clip_grad_norm_(optimizer, 5.0, scaler=scaler) == 50
        scaler.step(optimizer)
        assert_same(parameter.grad, torch.tensor([3.0, 4.0]))
        assert_nothing_pending(optimizer)

    def test_a_scaler_that_has_scaled_nothing(self) -> None:
        optimizer = SGD([with_gradient(1.0)], lr=1.0, fused=True)
        with pytest.raises(AssertionError, match="defer_clip_grad_norm_ but _scale is None"):
            defer_clip_grad_norm_(optimizer, 1.0, scaler=GradScaler("cpu"))
        assert_nothing_pending(optimizer)

    def test_a_scaler_that_has_stepped_already(self) -> None:
        parameter = weights(1.0)
        optimizer = SGD([parameter], lr=1.0, fused=True)
        scaler = GradScaler("cpu")
        scaler.scale(parameter.sum()).backward()
        scaler.step(optimizer)
        with pytest.raises(RuntimeError, match=r"called after step\(\)"):
            defer_clip_grad_norm_(optimizer, 1.0, scaler=scaler)
        assert_nothing_pending(optimizer)


class TestClosures:
    def test_inside_the_closure(self) -> None:
        results = []
        for clip in (native_clip, lambda o: defer_clip_grad_norm_(o, MAX_NORM)):
            model = network()
            optimizer = Adam(model.parameters(), lr=0.05, fused=True)

            def closure(factor: float, model: Any, optimizer: Any, clip: Any) -> Tensor:
                optimizer.zero_grad()
                loss = loss_of(model, factor)
                loss.backward()
                clip(optimizer)
                return loss.detach()

            for factor in LOSS_FACTORS:
                loss = optimizer.step(functools.partial(closure, factor, model, optimizer, clip))
                assert_nothing_pending(optimizer)
            results.append([loss, *everything(optimizer)])
        assert_same_training(*results)

    @pytest.mark.parametrize("by_name", [False, True])
    def test_before_a_step_with_a_closure(self, by_name: bool) -> None:
        parameter = with_gradient(30.0, 40.0)
        optimizer = SGD([parameter], lr=1.0, fused=True)
        defer_clip_grad_norm_(optimizer, 5.0)
        closure = unexpected_closure
        with pytest.raises(RuntimeError, match=r"SGD\.step got a closure.* inside the closure"):
            optimizer.step(closure=closure) if by_name else optimizer.step(closure)
        assert torch.equal(parameter.detach(), torch.ones(2))
        assert torch.equal(parameter.grad, torch.tensor([30.0, 40.0]))
        assert_nothing_pending(optimizer)

    def test_a_closure_of_none_is_no_closure(self) -> None:
        parameter = with_gradient(30.0, 40.0)
        optimizer = SGD([parameter], lr=1.0, fused=True)
        defer_clip_grad_norm_(optimizer, 5.0)
        optimizer.step(None)
        assert_same(parameter.grad, torch.tensor([3.0, 4.0]))


def unexpected_closure() -> float:
    raise AssertionError("the closure ran")


class TestStepsThatDoNotFit:
    def test_replaced_gradients(self) -> None:
        parameter = with_gradient(30.0, 40.0)
        optimizer = SGD([parameter], lr=1.0, fused=True)
        defer_clip_grad_norm_(optimizer, 5.0)
        optimizer.zero_grad()  # the step is left out, and the next one has no call of its own
        (parameter * torch.tensor([0.5, 0.25])).sum().backward()
        with pytest.raises(RuntimeError, match="gradients of SGD were replaced"):
            optimizer.step()
        assert torch.equal(parameter.detach(), torch.ones(2))
        assert_nothing_pending(optimizer)
        optimizer.step()
        assert torch.equal(parameter.detach(), torch.tensor([0.5, 0.75]))

    def test_replaced_gradients_under_a_scaler(self) -> None:
        parameter = weights(1.0, 1.0)
        optimizer = SGD([parameter], lr=1.0, fused=True)
        scaler = GradScaler("cpu", init_scale=64.0)
        scaler.scale(parameter.sum()).backward()
        defer_clip_grad_norm_(optimizer, 0.1, scaler=scaler)
        optimizer.zero_grad()
        scaler.scale((parameter * torch.tensor([0.5, 0.25])).sum()).backward()
        with pytest.raises(RuntimeError, match="gradients of SGD were replaced"):
            scaler.step(optimizer)
        assert_nothing_pending(optimizer)
        scaler.step(optimizer)
        assert torch.equal(parameter.detach(), torch.tensor([0.5, 0.75]))

    def test_a_scaler_that_the_call_did_not_know_of(self) -> None:
        parameter = weights(1.0, 1.0)
        optimizer = SGD([parameter], lr=1.0, fused=True)
        scaler = GradScaler("cpu", init_scale=64.0)
        scaler.scale(parameter.sum()).backward()
        defer_clip_grad_norm_(optimizer, 0.1)
        with pytest.raises(RuntimeError, match="the argument `scaler`"):
            scaler.step(optimizer)
        assert torch.equal(parameter.detach(), torch.ones(2))
        assert_nothing_pending(optimizer)

    def test_a_scaler_that_is_left_out_of_the_step(self) -> None:
        parameter = weights(1.0, 1.0)
        optimizer = SGD([parameter], lr=1.0, fused=True)
        scaler = GradScaler("cpu", init_scale=64.0)
        scaler.scale(parameter.sum()).backward()
        defer_clip_grad_norm_(optimizer, 0.1, scaler=scaler)
        with pytest.raises(RuntimeError, match=r"must be scaler\.step\(optimizer\)"):
            optimizer.step()
        assert torch.equal(parameter.detach(), torch.ones(2))
        assert_nothing_pending(optimizer)


class TestAScaleOfTheOptimizersOwn:
    def test_composes_and_comes_back(self) -> None:
        parameter = with_gradient(30.0 * 16, 40.0 * 16)
        optimizer = SGD([parameter], lr=1.0, fused=True)
        own = torch.tensor(16.0)
        optimizer.grad_scale = own
        assert defer_clip_grad_norm_(optimizer, 0.001) == 50
        assert defer_clip_grad_norm_(optimizer, 5.0) == 50
        optimizer.step()
        assert_same(parameter.grad, torch.tensor([3.0, 4.0]))
        assert optimizer.grad_scale is own
        assert hooks_of(optimizer) == []

    def test_composes_with_a_scaler_as_well(self) -> None:
        parameter = weights(1.0, 1.0)
        optimizer = SGD([parameter], lr=1.0, fused=True)
        optimizer.grad_scale = torch.tensor(16.0)
        scaler = GradScaler("cpu", init_scale=64.0)
        scaler.scale(16 * (parameter * torch.tensor([30.0, 40.0])).sum()).backward()
        assert defer_clip_grad_norm_(optimizer, 5.0, scaler=scaler) == 50
        scaler.step(optimizer)
        assert_same(parameter.grad, torch.tensor([3.0, 4.0]))
        assert_nothing_pending(optimizer)  # GradScaler.step() deletes it, with or without us


class TestExtremes:
    def test_a_total_beyond_float32(self) -> None:
        parameter = with_gradient(*[3e38] * 100)
        optimizer = SGD([parameter], lr=1.0, fused=True)
        total_norm = defer_clip_grad_norm_(optimizer, 1000.0)
        assert total_norm == math.inf  # what it is in float32; the coefficient knows better
        optimizer.step()
        assert_same(parameter.grad, torch.full((100,), 100.0))

    def test_squares_that_underflow(self) -> None:
        parameter = with_gradient(3e-30, 4e-30)
        optimizer = SGD([parameter], lr=1.0, fused=True)
        assert_same(defer_clip_grad_norm_(optimizer, 1.0), torch.tensor(5e-30))
        optimizer.step()
        assert torch.equal(parameter.grad, torch.tensor([3e-30, 4e-30]))

    def test_a_divisor_beyond_float32_zeroes_the_gradients(self) -> None:
        parameter = with_gradient(3e100, 4e100, dtype=torch.float64)
        optimizer = SGD([parameter], lr=1.0, fused=True)
        total_norm = defer_clip_grad_norm_(optimizer, 1.0)
        assert_same(total_norm, torch.tensor(5e100, dtype=torch.float64), rtol=1e-15)
        optimizer.step()
        assert torch.equal(parameter.grad, torch.zeros(2, dtype=torch.float64))

    def test_the_divisor_is_rounded_once(self) -> None:
        # 1 + 2**-24 and a bit: two roundings, or a float32 norm, would give 1 or a neighbour.
        generator = torch.Generator().manual_seed(3)
        for _ in range(200):
            gradient = torch.randn(7, generator=generator)
            optimizer = SGD([with_gradient(*gradient.tolist())], lr=1.0, fused=True)
            defer_clip_grad_norm_(optimizer, 0.37)
            exact = math.sqrt(math.fsum(v * v for v in gradient.tolist()))
            expected = torch.tensor(max((exact + 1e-6) / 0.37, 1.0), dtype=torch.float32)
            assert torch.equal(optimizer.grad_scale, expected)


class TestCopies:
    @pytest.mark.parametrize(
        "copied", [copy.deepcopy, copy.copy, lambda o: pickle.loads(pickle.dumps(o))]
    )
    @every_optimizer
    def test_have_nothing_pending(
        self, make_optimizer: Callable[..., Optimizer], copied: Any
    ) -> None:
        parameter = with_gradient(30.0, 40.0)
        optimizer = make_optimizer([parameter])
        defer_clip_grad_norm_(optimizer, 5.0)
        divisor = optimizer.grad_scale
        twin = copied(optimizer)
        assert_nothing_pending(twin)
        assert optimizer.grad_scale is divisor
        optimizer.step()
        assert_same(parameter.grad, torch.tensor([3.0, 4.0]))
        assert_nothing_pending(optimizer)

    def test_state_dict_shows_nothing_and_loads_meanwhile(self) -> None:
        parameter = with_gradient(30.0, 40.0)
        optimizer = Adam([parameter], lr=0.1, fused=True)
        before = optimizer.state_dict()
        defer_clip_grad_norm_(optimizer, 5.0)
        assert optimizer.state_dict() == before
        optimizer.load_state_dict(before)
        optimizer.step()
        assert_same(parameter.grad, torch.tensor([3.0, 4.0]))

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
    def test_an_optimizer_that_copies_all_of_itself(self, copied: Any) -> None:
        optimizer = WholeSGD([with_gradient(30.0, 40.0)], lr=1.0, fused=True)
        defer_clip_grad_norm_(optimizer, 5.0)
        twin = copied(optimizer)
        for one in (twin, optimizer):
            gradient = own_parameters(one)[0].grad
            if gradient is None:  # pickle drops .grad
                own_parameters(one)[0].grad = gradient = torch.tensor([30.0, 40.0])
            one.step()
            assert_same(gradient, torch.tensor([3.0, 4.0]))
            assert_nothing_pending(one)


class WholeSGD(SGD):
    def __getstate__(self) -> dict[str, Any]:
        return dict(vars(self))


class OldContract(Optimizer):
    """An optimizer that takes the scaler as an argument, as Apex's do."""

    _step_supports_amp_scaling = True

    def step(self, closure: Any = None, *, grad_scaler: Any = None) -> None:
        """Do nothing."""


class Wrapper(Optimizer):
    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer


class OwnFusedStep(Optimizer):
    """A third party's optimizer that keeps GradScaler's contract, without a `fused` of its own."""

    _step_supports_amp_scaling = True

    def step(self, closure: Any = None) -> None:
        """Subtract the divided gradients."""
        for parameter in own_parameters(self):
            parameter.grad /= getattr(self, "grad_scale", 1)
            parameter.data -= parameter.grad


class TestBadInput:
    @pytest.mark.parametrize("optimizer_class", [Adam, AdamW, SGD, Adagrad])
    @pytest.mark.parametrize("options", [{}, {"fused": False}, {"foreach": True}], ids=str)
    def test_an_optimizer_that_is_not_fused(
        self, optimizer_class: type[Optimizer], options: dict[str, bool]
    ) -> None:
        optimizer = optimizer_class([with_gradient(3.0, 4.0)], lr=1.0, **options)
        name = optimizer_class.__name__
        with pytest.raises(TypeError, match=f"optimizer is a {name}, .* with fused=True"):
            defer_clip_grad_norm_(optimizer, 1.0)
        assert_nothing_pending(optimizer)

    @pytest.mark.parametrize("optimizer_class", [torch.optim.RMSprop, torch.optim.LBFGS])
    def test_an_optimizer_without_a_fused_step(self, optimizer_class: type[Optimizer]) -> None:
        optimizer = optimizer_class([with_gradient(3.0, 4.0)])
        with pytest.raises(TypeError, match=f"optimizer is a {optimizer_class.__name__}"):
            defer_clip_grad_norm_(optimizer, 1.0)

    @pytest.mark.parametrize("fused", [False, None])
    @pytest.mark.parametrize("optimizer_class", [Adam, AdamW, SGD])
    def test_a_group_that_is_not_fused(self, optimizer_class: Any, fused: bool | None) -> None:
        groups = [
            {"params": [with_gradient(3.0)]},
            {"params": [with_gradient(4.0)], "fused": fused},
        ]
        optimizer = optimizer_class(groups, lr=1.0, fused=True)
        with pytest.raises(
            TypeError, match=rf"param_groups\[1\] has fused={fused}; it must be True"
        ):
            defer_clip_grad_norm_(optimizer, 1.0)
        assert_nothing_pending(optimizer)

    def test_a_copied_optimizer(self) -> None:
        optimizer = copy.deepcopy(SGD([with_gradient(3.0)], lr=1.0, fused=True))
        with pytest.raises(TypeError, match="torch drops the mark from copied"):
            defer_clip_grad_norm_(optimizer, 1.0)

    def test_a_wrapped_optimizer(self) -> None:
        optimizer = Wrapper(SGD([with_gradient(3.0)], lr=1.0, fused=True))
        with pytest.raises(TypeError, match=r"is a Wrapper, .* pass `optimizer\.optimizer`"):
            defer_clip_grad_norm_(optimizer, 1.0)

    @pytest.mark.parametrize("optimizer", [None, 1, network()], ids=["None", "1", "module"])
    def test_no_optimizer_at_all(self, optimizer: Any) -> None:
        with pytest.raises(TypeError, match=f"optimizer is a {type(optimizer).__name__}"):
            defer_clip_grad_norm_(optimizer, 1.0)

    def test_an_optimizer_that_takes_the_scaler_itself(self) -> None:
        optimizer = OldContract([with_gradient(3.0)], {})
        with pytest.raises(TypeError, match="OldContract, whose step does not read"):
            defer_clip_grad_norm_(optimizer, 1.0)

    def test_something_that_only_has_the_mark(self) -> None:
        class Marked:
            _step_supports_amp_scaling = True

        with pytest.raises(TypeError, match="optimizer is a Marked, whose step does not read"):
            defer_clip_grad_norm_(Marked(), 1.0)

    def test_a_third_partys_optimizer_is_welcome(self) -> None:
        parameter = with_gradient(30.0, 40.0)
        optimizer = OwnFusedStep([parameter], {})
        assert defer_clip_grad_norm_(optimizer, 5.0) == 50
        optimizer.step()
        assert_same(parameter.detach(), torch.tensor([-2.0, -3.0]))
        assert_nothing_pending(optimizer)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"scaler": 2.0}, "scaler is a float; it must be a torch.amp.GradScaler"),
            ({"parameters": 2.0}, "parameters is a float; it must be an iterable"),
            ({"parameters": [1.0]}, "parameters has a float in it"),
            ({"parameters": {"weight": weights(1.0)}}, "parameters has a str in it"),
            ({"max_norm": None}, "float"),
            ({"max_norm": [1.0]}, "float"),
            ({"norm_type": None}, "float"),
        ],
    )
    def test_wrong_types(self, arguments: dict[str, Any], message: str) -> None:
        parameter = with_gradient(3.0, 4.0)
        optimizer = SGD([parameter], lr=1.0, fused=True)
        with pytest.raises(TypeError, match=message):
            defer_clip_grad_norm_(optimizer, **{"max_norm": 1.0, **arguments})
        assert_nothing_pending(optimizer)
        assert torch.equal(parameter.grad, torch.tensor([3.0, 4.0]))

    @pytest.mark.skipif(
        ADAGRAD_TAKES_GRAD_SCALE, reason="this torch's fused Adagrad takes grad_scale"
    )
    def test_adagrad_before_torch_2_12(self) -> None:
        with pytest.raises(TypeError, match="optimizer is a Adagrad"):
            defer_clip_grad_norm_(Adagrad([with_gradient(3.0)], fused=True), 1.0)
