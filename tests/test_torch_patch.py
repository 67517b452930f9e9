"""patch_torch: PyTorch's clipping becomes gradkern's, for the libraries that call it too."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import accelerate
import pytest
import torch
import torch.nn.utils
import torch.nn.utils.clip_grad
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import gradkern
from gradkern import patch_torch

OURS: dict[str, Callable[..., Any]] = {
    "clip_grad_norm_": gradkern.clip_grad_norm_,
    "clip_grad_value_": gradkern.clip_grad_value_,
    "clip_grads_with_norm_": gradkern.clip_grads_with_norm_,
    "get_total_norm": gradkern.get_total_norm,
}
PLACES = [
    *((torch.nn.utils, name) for name in OURS),
    (torch.nn.utils.clip_grad, "clip_grad_norm_"),
    (torch.nn.utils.clip_grad, "clip_grad_value_"),
    (torch.nn.utils.clip_grad, "_clip_grads_with_norm_"),
    (torch.nn.utils.clip_grad, "_get_total_norm"),
]


def functions_of(module: ModuleType) -> dict[str, Any]:
    """All names of a module, but not the submodules that an import may add at any time."""
    return {name: v for name, v in vars(module).items() if not isinstance(v, ModuleType)}


BEFORE = {module: functions_of(module) for module, _ in PLACES}


def patched() -> bool:
    """Whether all the places hold ours; an error if only some do."""
    states = {getattr(module, name) is OURS[name.lstrip("_")] for module, name in PLACES}
    assert len(states) == 1, "patched in part"
    return states.pop()


def assert_exactly_as_before() -> None:
    assert not patched()
    for module, before in BEFORE.items():
        assert functions_of(module) == before


@pytest.fixture(autouse=True)
def _leaves_torch_alone() -> Iterator[None]:
    assert_exactly_as_before()
    yield
    patch_torch.disable()
    assert_exactly_as_before()


# Gradients whose norm 3.2e20 native's float32 sum of squares calls infinite. So what clips them to
# length is ours, and what zeroes them is native's.
HUGE = torch.full((1000,), 1e19)
HUGE_NORM = 1e19 * 1000**0.5


def huge_parameter() -> nn.Parameter:
    parameter = nn.Parameter(torch.zeros(1000))
    parameter.grad = HUGE.clone()
    return parameter


def assert_clipped_by_gradkern(total_norm: Tensor, gradient: Tensor, max_norm: float) -> None:
    torch.testing.assert_close(float(total_norm), HUGE_NORM, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, HUGE / HUGE_NORM * max_norm, rtol=1e-6, atol=0)


class Operators(TorchDispatchMode):
    """Records the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


class TestTheSwitch:
    def test_block(self) -> None:
        with patch_torch():
            assert patched()
            assert patch_torch.active
        assert not patch_torch.active
        assert_exactly_as_before()

    def test_enable_and_disable(self) -> None:
        patch_torch.enable()
        assert patched()
        patch_torch.disable()
        assert_exactly_as_before()

    def test_enable_and_disable_do_not_count(self) -> None:
        patch_torch.disable()
        patch_torch.enable()
        patch_torch.enable()
        assert patched()
        patch_torch.disable()
        assert_exactly_as_before()
        patch_torch.disable()
        assert_exactly_as_before()

    def test_blocks_nest(self) -> None:
        with patch_torch():
            with patch_torch(), patch_torch():
                assert patched()
            assert patched()
        assert_exactly_as_before()

    def test_a_block_inside_enable(self) -> None:
        patch_torch.enable()
        with patch_torch():
            assert patched()
        assert patched()

    def test_disable_inside_a_block_waits_for_its_end(self) -> None:
        patch_torch.enable()
        with patch_torch():
            patch_torch.disable()
            assert patched()
        assert_exactly_as_before()

    def test_enable_inside_a_block_outlasts_it(self) -> None:
        with patch_torch():
            patch_torch.enable()
        assert patched()

    def test_an_error_in_the_block(self) -> None:
        with pytest.raises(ZeroDivisionError), patch_torch():
            _ = 1 / 0
        assert_exactly_as_before()

    def test_decorator(self) -> None:
        @patch_torch()
        def inside() -> bool:
            return patched()

        assert inside()
        assert inside()
        assert_exactly_as_before()

    def test_blocks_that_overlap_in_two_threads_end_with_the_last(self) -> None:
        entered, leave = threading.Event(), threading.Event()

        def other() -> None:
            with patch_torch():
                entered.set()
                assert leave.wait(10)

        thread = threading.Thread(target=other)
        with patch_torch():
            thread.start()
            assert entered.wait(10)
        assert patched()
        leave.set()
        thread.join(10)
        assert_exactly_as_before()

    def test_many_threads(self) -> None:
        failures: list[BaseException] = []

        def enter_and_leave() -> None:
            try:
                for _ in range(200):
                    with patch_torch():
                        assert patched()
            except BaseException as failure:
                failures.append(failure)

        threads = [threading.Thread(target=enter_and_leave) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
        assert_exactly_as_before()

    def test_what_was_there_before_comes_back_whoever_put_it_there(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def third_party(*args: Any) -> None: ...

        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", third_party)
        with patch_torch():
            assert torch.nn.utils.clip_grad_norm_ is gradkern.clip_grad_norm_
        assert torch.nn.utils.clip_grad_norm_ is third_party
        monkeypatch.undo()

    def test_what_someone_put_over_ours_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def third_party(*args: Any) -> None: ...

        native = torch.nn.utils.clip_grad_norm_
        patch_torch.enable()
        torch.nn.utils.clip_grad_norm_ = third_party
        try:
            with pytest.warns(RuntimeWarning, match=r"torch\.nn\.utils\.clip_grad_norm_ was repl"):
                patch_torch.disable()
            assert torch.nn.utils.clip_grad_norm_ is third_party
        finally:
            torch.nn.utils.clip_grad_norm_ = native
        assert_exactly_as_before()


class TestReplacedFunctions:
    def test_norm(self) -> None:
        parameter = huge_parameter()
        with patch_torch():
            total_norm = torch.nn.utils.clip_grad_norm_([parameter], 2.0)
        assert_clipped_by_gradkern(total_norm, parameter.grad, 2.0)

    def test_norm_without_the_patch_is_natives(self) -> None:
        with patch_torch():
            pass
        parameter = huge_parameter()
        assert torch.nn.utils.clip_grad_norm_([parameter], 2.0) == torch.inf
        assert not parameter.grad.any()

    @pytest.mark.filterwarnings("ignore:.*clip_grad_norm. is now deprecated:FutureWarning")
    def test_the_deprecated_name_follows(self) -> None:
        parameter = huge_parameter()
        with patch_torch():
            total_norm = torch.nn.utils.clip_grad_norm([parameter], 2.0)
        assert_clipped_by_gradkern(total_norm, parameter.grad, 2.0)

    def test_norm_in_two_steps(self) -> None:
        parameter = huge_parameter()
        with patch_torch():
            total_norm = torch.nn.utils.get_total_norm([parameter.grad])
            torch.nn.utils.clip_grads_with_norm_([parameter], 2.0, total_norm)
        assert_clipped_by_gradkern(total_norm, parameter.grad, 2.0)

    @pytest.mark.parametrize("module", [torch.nn.utils, torch.nn.utils.clip_grad])
    def test_value(self, module: Any) -> None:
        parameter = huge_parameter()
        with patch_torch(), Operators() as operators:
            module.clip_grad_value_([parameter], 0.5)
        assert torch.equal(parameter.grad, torch.full((1000,), 0.5))
        assert "gradkern::clip_grad_value_" in operators.names

    def test_a_compiled_function_notices(self) -> None:
        parameter = huge_parameter()
        clip = torch.compile(
            lambda: torch.nn.utils.clip_grad_norm_([parameter], 2.0), backend="eager"
        )
        assert clip() == torch.inf
        parameter.grad = HUGE.clone()
        with patch_torch():
            total_norm = clip()
        assert_clipped_by_gradkern(total_norm, parameter.grad, 2.0)
        assert clip() == pytest.approx(2.0)
        parameter.grad = HUGE.clone()
        assert clip() == torch.inf


class TestDelegation:
    """What gradkern hands to native must arrive there, not come round again through the patch."""

    @staticmethod
    def sparse_parameter() -> nn.Parameter:
        parameter = nn.Parameter(torch.zeros(3))
        parameter.grad = torch.tensor([1.0, 0.0, 2.0]).to_sparse()
        return parameter

    @staticmethod
    def meta_parameter() -> nn.Parameter:
        parameter = nn.Parameter(torch.zeros(3, device="meta"))
        parameter.grad = torch.ones(3, device="meta")
        return parameter

    CALLS: tuple[Callable[[nn.Parameter], Any], ...] = (
        lambda p: torch.nn.utils.clip_grad_norm_([p], 1.0),
        lambda p: torch.nn.utils.get_total_norm([p.grad]),
        lambda p: torch.nn.utils.clip_grads_with_norm_([p], 1.0, torch.tensor(3.0)),
        lambda p: torch.nn.utils.clip_grad_value_([p], 1.0),
    )

    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize("make", [sparse_parameter, meta_parameter])
    def test_ends_as_natively(self, make: Any, call: Callable[[nn.Parameter], Any]) -> None:
        def outcome() -> tuple[Any, ...]:
            parameter = make()
            try:
                result = call(parameter)
            except Exception as error:
                return (type(error),)
            parts = [t for t in (result, parameter.grad) if isinstance(t, Tensor)]
            return tuple((t.dtype, t.shape, t.device, t.layout) for t in parts)

        native = outcome()
        with patch_torch():
            assert outcome() == native

    @pytest.mark.parametrize("make", [sparse_parameter, meta_parameter])
    def test_never_enters_a_patched_name(self, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def trap(*args: Any, **kwargs: Any) -> None:
            raise AssertionError("gradkern's delegation went through a patched name")

        for module, name in PLACES:
            monkeypatch.setattr(module, name, trap)
        for call in (
            lambda p: gradkern.clip_grad_norm_([p], 1.0),
            lambda p: gradkern.get_total_norm([p.grad]),
            lambda p: gradkern.clip_grads_with_norm_([p], 1.0, torch.tensor(3.0)),
            lambda p: gradkern.clip_grad_value_([p], 1.0),
        ):
            try:
                call(make())
            except NotImplementedError:
                continue  # native's own word on sparse gradients
        monkeypatch.undo()


class TestAccelerate:
    @pytest.fixture
    def prepared(self) -> tuple[accelerate.Accelerator, nn.Parameter]:
        accelerator = accelerate.Accelerator(cpu=True)
        model = nn.ParameterList([nn.Parameter(torch.zeros(1000))])
        model, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=1.0))
        accelerator.backward((model[0] * HUGE).sum())
        return accelerator, model[0]

    def test_clips_with_gradkern_under_the_patch(self, prepared: Any) -> None:
        accelerator, parameter = prepared
        with patch_torch():
            total_norm = accelerator.clip_grad_norm_([parameter], 2.0)
        assert_clipped_by_gradkern(total_norm, parameter.grad, 2.0)

    def test_clips_natively_without_it(self, prepared: Any) -> None:
        accelerator, parameter = prepared
        assert accelerator.clip_grad_norm_([parameter], 2.0) == torch.inf
        assert not parameter.grad.any()

    def test_clips_values_with_gradkern_under_the_patch(self, prepared: Any) -> None:
        accelerator, parameter = prepared
        with patch_torch(), Operators() as operators:
            accelerator.clip_grad_value_([parameter], 0.5)
        assert torch.equal(parameter.grad, torch.full((1000,), 0.5))
        assert "gradkern::clip_grad_value_" in operators.names

    def test_a_training_is_the_same_with_and_without(self) -> None:
        def train() -> list[Tensor]:
            torch.manual_seed(4)
            accelerator = accelerate.Accelerator(cpu=True)
            model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3))
            model, optimizer = accelerator.prepare(
                model, torch.optim.AdamW(model.parameters(), lr=0.02)
            )
            totals = []
            for factor in (1.0, 40.0, 0.02, 5.0):
                optimizer.zero_grad()
                accelerator.backward(factor * model(torch.linspace(-2, 2, 30).view(5, 6)).norm())
                totals.append(accelerator.clip_grad_norm_(model.parameters(), 0.7))
                optimizer.step()
            return [*totals, *copy.deepcopy(list(model.parameters()))]

        native = train()
        with patch_torch():
            ours = train()
        torch.testing.assert_close(ours, native, rtol=1e-5, atol=1e-6)
        assert min(native[:4]) < 0.7 < max(native[:4])


class HugeGradients(nn.Module):
    """A model whose every training step has the gradients HUGE."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1000))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        return {"loss": (self.weight * HUGE).sum() + 0 * x.sum()}


@pytest.mark.filterwarnings("ignore")  # theirs
class TestLightning:
    @staticmethod
    def trained_weight(**clipping: Any) -> Tensor:
        lightning = pytest.importorskip("lightning.pytorch")

        class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.model = HugeGradients()

            def training_step(self, batch: Tensor, index: int) -> Tensor:
                return self.model(batch)["loss"]

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.SGD(self.parameters(), lr=1.0)

        module = Module()
        lightning.Trainer(
            accelerator="cpu",
            max_steps=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **clipping,
        ).fit(module, torch.utils.data.DataLoader(torch.zeros(1, 1)))
        return module.model.weight.detach()

    def test_clips_with_gradkern_under_the_patch(self) -> None:
        with patch_torch():
            weight = self.trained_weight(gradient_clip_val=2.0)
        torch.testing.assert_close(weight, HUGE / HUGE_NORM * -2, rtol=1e-6, atol=0)

    def test_clips_natively_without_it(self) -> None:
        assert not self.trained_weight(gradient_clip_val=2.0).any()

    def test_clips_values_with_gradkern_under_the_patch(self) -> None:
        with patch_torch(), Operators() as operators:
            weight = self.trained_weight(gradient_clip_val=0.5, gradient_clip_algorithm="value")
        assert torch.equal(weight, torch.full((1000,), -0.5))
        assert "gradkern::clip_grad_value_" in operators.names


@pytest.mark.filterwarnings("ignore")  # theirs
class TestTransformers:
    @staticmethod
    def train(folder: Path) -> tuple[float, Tensor]:
        """The logged norm of the gradients, and the weight, after one step of HF's Trainer."""
        transformers = pytest.importorskip("transformers")
        model = HugeGradients()
        trainer = transformers.Trainer(
            model,
            transformers.TrainingArguments(
                output_dir=str(folder),
                max_steps=1,
                max_grad_norm=2.0,
                optim="sgd",
                learning_rate=1.0,
                lr_scheduler_type="constant",
                logging_steps=1,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                use_cpu=True,
            ),
            train_dataset=[{"x": torch.zeros(1), "labels": torch.zeros(1)}],
        )
        trainer.train()
        logged = next(log["grad_norm"] for log in trainer.state.log_history if "grad_norm" in log)
        return float(logged), model.weight.detach()

    def test_clips_with_gradkern_under_the_patch(self, tmp_path: Path) -> None:
        with patch_torch():
            total_norm, weight = self.train(tmp_path)
        assert_clipped_by_gradkern(torch.tensor(total_norm), -weight, 2.0)

    def test_clips_natively_without_it(self, tmp_path: Path) -> None:
        total_norm, weight = self.train(tmp_path)
        assert total_norm == float("inf")
        assert not weight.any()
