"""The callbacks in tiny trainings by the real libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import gradients, loss_of, network, total_norm
from torch.utils.data import DataLoader, Dataset

from gradkern.monitor import Report

pytestmark = pytest.mark.filterwarnings("ignore")


def _lightning() -> Any:
    return pytest.importorskip("pytorch_lightning")


@pytest.mark.parametrize("clip", [None, 0.05])
def test_lightning(tmp_path: Path, clip: float | None) -> None:
    pl = _lightning()
    from gradkern.monitor.lightning import MonitorCallback

    norms: list[tuple[float, float]] = []

    class Task(pl.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network()
            self.before = float("nan")

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return loss_of(self.network, seed=index)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            self.before = total_norm(gradients(self))

        def on_train_batch_end(self, *args: Any) -> None:
            norms.append((self.before, total_norm(gradients(self))))

    events: list[dict[str, Any]] = []
    callback = MonitorCallback(log=[events.append, tmp_path / "run.jsonl"], on_alert=None)
    trainer = pl.Trainer(
        max_epochs=1,
        callbacks=[callback],
        gradient_clip_val=clip,
        accumulate_grad_batches=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Task(), DataLoader(range(8), batch_size=1))
    steps = [e for e in events if e["kind"] == "step"]
    assert len(steps) == 4, "eight batches, two to a step"
    for step, (before, after) in zip(steps, norms[1::2], strict=True):
        assert step["total_norm_before_clipping"] == pytest.approx(before, rel=1e-5)
        assert step["total_norm_after_clipping"] == pytest.approx(after, rel=1e-3)
        if clip is not None:
            assert after == pytest.approx(clip, rel=1e-3)
    assert 1 < steps[0]["loss"] < 2
    assert events[0]["parameters"][0] == "network.0.weight"
    assert callback.report().headline.startswith("HEALTHY")
    assert Report.of_log(tmp_path / "run.jsonl").history.steps == 4
    assert callback.state_dict()["step"] == 4


class _Text(Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.arange(index, index + 12) % 32
        return {"input_ids": ids, "labels": ids}


def test_hugging_face(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from gradkern.monitor.huggingface import MonitorCallback

    native = torch.nn.utils.clip_grad_norm_
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2, n_inner=32
        )
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_grad_norm=0.05,
        learning_rate=1e-3,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    events: list[dict[str, Any]] = []
    callback = MonitorCallback(log=events.append, on_alert=None)
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=_Text(), callbacks=[callback]
    )
    trainer.train()
    steps = [e for e in events if e["kind"] == "step"]
    logged = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    assert len(steps) == len(logged) == 4
    for step, entry in zip(steps, logged, strict=True):
        assert step["total_norm_before_clipping"] == pytest.approx(entry["grad_norm"], rel=1e-3)
        assert step["total_norm_after_clipping"] == pytest.approx(0.05, rel=1e-3)
        assert step["loss"] == pytest.approx(entry["loss"], rel=1e-2)
    assert events[0]["parameters"][0].startswith("transformer.wte")
    assert torch.nn.utils.clip_grad_norm_ is native
    assert not any(m._forward_hooks for m in model.modules())
    assert callback.report().verdict["verdict"]
