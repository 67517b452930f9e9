"""What a monitor holds: as a share of a model, and over 100,000 steps.

`python -m benchmarks.monitor_memory [--steps 100000]`. The steps are simulated: gradients are made
up, so that what is timed and held is the monitor's alone.
"""

from __future__ import annotations

import gc
import pickle
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

import gradkern
from benchmarks.trainings import character_training, image_training


def simulated(model: nn.Module, max_history: int = 200) -> gradkern.Monitor:
    """A monitor on a model whose gradients are random and stay."""
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    # Nothing runs the model, so there are no outputs.
    return gradkern.Monitor(model, on_alert=None, max_history=max_history, activations=None)


def share_of(model: nn.Module, steps: int = 250) -> dict[str, float]:
    """Bytes that a monitor holds after some steps, over those of the model's parameters."""
    monitor = simulated(model)
    for step in range(steps):
        monitor.step(1.0 + 1.0 / (step + 1))
    held = monitor.memory()
    return {
        "samples": held["samples"] / held["parameters"],
        "history": held["history"] / held["parameters"],
    }


@dataclass(frozen=True)
class Mark:
    """A point of a long run."""

    step: int
    resident: int
    """Bytes of the process."""
    objects: int
    """That Python's collector knows."""
    state: int
    """Bytes of the monitor's state as it is saved."""
    seconds: float


def growth(steps: int, marks: int = 10, max_history: int = 200) -> list[Mark]:
    """Takes many steps, and measures at some of them."""
    monitor = simulated(nn.Sequential(*(nn.Linear(8, 8) for _ in range(8))), max_history)
    start = time.perf_counter()
    measured = []
    for step in range(1, steps + 1):
        monitor.step(1.0 + 1.0 / step)
        if step % (steps // marks) == 0:
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            measured.append(
                Mark(
                    step,
                    pages * resource.getpagesize(),
                    len(gc.get_objects()),
                    len(pickle.dumps(monitor.state_dict())),
                    time.perf_counter() - start,
                )
            )
    return measured


def main(steps: Annotated[int, typer.Option(min=10)] = 100_000) -> None:
    """Prints the shares and the growth."""
    cpu = torch.device("cpu")
    for workload in (character_training(cpu, False), image_training(cpu, False)):
        model = workload.make().plain
        shares = share_of(model)
        typer.echo(
            f"{workload.name}: samples {shares['samples']:.2%}, history {shares['history']:.2%} "
            f"of the parameters' memory"
        )
    for mark in growth(steps):
        typer.echo(
            f"step {mark.step}: process {mark.resident / 2**20:.1f} MiB, {mark.objects} objects, "
            f"state {mark.state / 1024:.0f} KiB, {mark.seconds:.0f} s"
        )


if __name__ == "__main__":
    typer.run(main)
