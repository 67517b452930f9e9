"""A callback for Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from gradkern.monitor.monitor import Monitor
from gradkern.monitor.report import Report

try:
    from lightning.pytorch.callbacks import Callback
except ModuleNotFoundError:
    from pytorch_lightning.callbacks import Callback

__all__ = ["MonitorCallback"]


class MonitorCallback(Callback):  # type: ignore[misc, unused-ignore]
    """Watches a training by Lightning: ``Trainer(callbacks=[MonitorCallback(log="run.jsonl")])``.

    Gradients are measured before Lightning clips them, and their total norm after that, too. With
    several optimizers, and manual optimization, a step ends with the training batch. A batch of
    gradient accumulation that steps no optimizer ends none.

    Args:
        options: of :class:`gradkern.Monitor`.

    Attributes:
        monitor: the monitor, from the start of ``fit`` on.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._options = options
        self._state: dict[str, Any] | None = None
        self.monitor: Monitor | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.monitor = Monitor(pl_module, trainer.optimizers, **self._options)
        if self._state is not None:
            self.monitor.load_state_dict(self._state)
        self._steps = trainer.global_step

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        assert self.monitor is not None
        # Its gradients are unscaled here, and not clipped yet.
        self.monitor.measure_gradients()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self.monitor is not None
        if trainer.global_step == self._steps:
            return  # accumulated only
        self._steps = trainer.global_step
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        # With accumulation Lightning has divided the loss by the number of batches.
        if isinstance(loss, Tensor):
            loss = loss.detach() * trainer.accumulate_grad_batches
        self.monitor.step(loss)

    def report(self) -> Report:
        """What the monitor has found.

        Raises:
            RuntimeError: nothing was trained.
        """
        if self.monitor is None:
            raise RuntimeError("nothing was trained; Trainer.fit must come before the report")
        return self.monitor.report()

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self.monitor is not None:
            self.monitor.close()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.monitor is None else self.monitor.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state = state_dict or None
