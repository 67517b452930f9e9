"""A callback for Hugging Face's Trainer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gradkern.monitor.model_hooks import ModelHook
from gradkern.monitor.monitor import Monitor
from gradkern.monitor.report import Report

__all__ = ["MonitorCallback"]


class MonitorCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Watches a training by ``Trainer``: ``Trainer(..., callbacks=[MonitorCallback()])``.

    While ``train`` runs, the Trainer's clipping (``max_grad_norm``) goes through the monitor, which
    clips to the same norm and measures the gradients before it. What else calls
    ``torch.nn.utils.clip_grad_norm_`` for other parameters in that time is not concerned.

    Args:
        options: of :class:`gradkern.Monitor`.

    Attributes:
        monitor: the monitor, from the start of ``train`` on.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._native: Any = None
        self._losses: list[Tensor] = []
        self._shares = False
        self._handle: Any = None
        self.monitor: Monitor | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        if model is None:
            raise RuntimeError("Trainer gave no model; on_train_begin must get one")
        # Accelerate wraps optimizers; hooks belong on the inner one.
        inner = getattr(optimizer, "optimizer", optimizer)
        self.monitor = Monitor(model, inner, **self._options)
        self._losses.clear()
        # The Trainer tells callbacks no loss; a model that is given labels returns it.
        self._handle = model.register_forward_hook(ModelHook(self._keep_loss), with_kwargs=True)
        self._native = torch.nn.utils.clip_grad_norm_
        torch.nn.utils.clip_grad_norm_ = self._clip

    def _clip(
        self, parameters: Iterable[Tensor] | Tensor, max_norm: float, *args: Any, **kwargs: Any
    ) -> Tensor:
        assert self.monitor is not None
        listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        own = {id(p) for p in self.monitor.model.parameters()}
        if not all(id(p) in own for p in listed):
            return self._native(listed, max_norm, *args, **kwargs)  # type: ignore[no-any-return]
        kwargs.pop("foreach", None)
        return self.monitor.clip_grad_norm_(max_norm, *args, parameters=listed, **kwargs)  # type: ignore[arg-type]

    def _keep_loss(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        loss = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
        if module.training and isinstance(loss, Tensor) and loss.numel() == 1:
            self._losses.append(loss.detach())
            # With that argument each loss is its batch's share of the step's; else their mean is.
            self._shares = kwargs.get("num_items_in_batch") is not None

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        assert self.monitor is not None
        losses, self._losses = self._losses, []
        if not losses:
            self.monitor.step()
            return
        stacked = torch.stack(losses).double()
        self.monitor.step(stacked.sum() if self._shares else stacked.mean())

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()

    def close(self) -> None:
        """Takes the monitor off; only needed where ``train`` raised."""
        if self._native is not None:
            torch.nn.utils.clip_grad_norm_ = self._native
            self._native = None
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        if self.monitor is not None:
            self.monitor.close()

    def report(self) -> Report:
        """What the monitor has found.

        Raises:
            RuntimeError: nothing was trained.
        """
        if self.monitor is None:
            raise RuntimeError("nothing was trained; Trainer.train must come before the report")
        return self.monitor.report()
