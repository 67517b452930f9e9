"""What watching a training costs: steps with a monitor against steps without.

`python -m benchmarks.monitor --seconds 60` runs these rows alone. Beside ours: wandb.watch, which
writes to disk only, and the loop of Lightning's `grad_norm`, on the same models.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import gradkern
from benchmarks.rows import Bar, Row, Sides, Traffic
from benchmarks.trainings import (
    TwoTrainings,
    character_training,
    fused_image_training,
    image_training,
)

PLAIN = "unwatched"
BAR = Bar("time", 1.02)


def _traffic(data: TwoTrainings) -> Traffic:
    # Watching reads gradients and parameters once (the native clip of the other side reads the
    # gradients, too).
    return Traffic(read=2 * sum(p.nbytes for p in data.plain.parameters()))


def monitored(data: TwoTrainings) -> Sides:
    """Everything that the monitor measures, at every step, and all rules."""
    model, optimizer = data.watched_copy()
    monitor = gradkern.Monitor(model, optimizer, on_alert=None)

    def step() -> Tensor:
        loss = data.backward(model)
        monitor.clip_grad_norm_(1.0)
        optimizer.step()
        monitor.step(loss)
        return loss

    return Sides(step, data.plain_step, _traffic(data))


def not_watched(data: TwoTrainings) -> Sides:
    """Both sides alike: how much two equal steps differ on this machine."""
    model, optimizer = data.watched_copy()

    def step() -> Tensor:
        loss = data.backward(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    return Sides(step, data.plain_step, Traffic())


def by_wandb(data: TwoTrainings) -> Sides:
    """wandb.watch of gradients and parameters at every step, offline."""
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")
    run = wandb.init(mode="offline", dir=tempfile.mkdtemp(), project="benchmark")
    model, optimizer = data.watched_copy()
    run.watch(model, log="all", log_freq=1)

    def step() -> Tensor:
        loss = data.backward(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        run.log({"loss": loss})
        return loss

    return Sides(step, data.plain_step, Traffic())


def by_lightning(data: TwoTrainings) -> Sides:
    """Lightning's grad_norm before clipping at every step: a norm and an item() per parameter."""
    from pytorch_lightning.utilities import grad_norm

    model, optimizer = data.watched_copy()

    def step() -> Tensor:
        loss = data.backward(model)
        grad_norm(model, 2)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    return Sides(step, data.plain_step, Traffic())


_PEERS: dict[str, tuple[str, Callable[[TwoTrainings], Sides]]] = {
    "wandb.watch, all": ("wandb", by_wandb),
    "Lightning grad_norm": ("pytorch_lightning", by_lightning),
}


def rows(device: torch.device, quick: bool) -> Iterator[Row[TwoTrainings]]:
    """The family's rows; peers where they are installed.

    Args:
        device: where the models are.
        quick: tiny stand-ins for the models.

    Yields:
        Rows, those of one workload together.
    """
    workloads = (
        character_training(device, quick),
        image_training(device, quick),
        fused_image_training(device, quick),
    )
    for workload in workloads:
        yield Row("gradkern.Monitor", PLAIN, workload, monitored, BAR)
        yield Row("nothing", PLAIN, workload, not_watched)
        for name, (package, prepare) in _PEERS.items():
            if importlib.util.find_spec(package) is not None and not quick:
                yield Row(name, PLAIN, workload, prepare)


if __name__ == "__main__":
    from benchmarks.command_line import application

    application({"monitor": rows}, "monitor")()
