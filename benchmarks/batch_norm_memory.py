"""What a stack of convolution, batch normalisation and activation keeps for backward.

`python -m benchmarks.batch_norm_memory` prints it for native's modules, gradkern's, and gradkern's
with `memory_efficient=True`. Bytes are those that torch's allocator is asked for, not times: they
are the same in every run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import gradkern
from gradkern.batch_norm import OF_OUTPUT

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
}
CHANNELS, SIZE = 16, 32


@dataclass(frozen=True)
class Kept:
    """What one training step holds.

    Attributes:
        saved: tensors of the activations' size that autograd keeps, each memory counted once.
        forward, step: the most bytes held at once in forward, and in the whole step, over those
            of one activation; parameters and their gradients not counted.
    """

    saved: int
    forward: float
    step: float


def stack(activation: str, kind: str, layers: int) -> nn.Sequential:
    """The layers.

    Args:
        activation: a name of `ACTIVATIONS`.
        kind: "native", "gradkern" or "memory-efficient".
        layers: how many of each.
    """
    modules: list[nn.Module] = []
    for _ in range(layers):
        modules.append(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False))
        if kind == "native":
            modules += [nn.BatchNorm2d(CHANNELS), ACTIVATIONS[activation]()]
        else:
            efficient = kind == "memory-efficient"
            modules.append(
                gradkern.nn.BatchNorm2d(CHANNELS, activation=activation, memory_efficient=efficient)
            )
    return nn.Sequential(*modules)


def saved_tensors(model: nn.Module, x: Tensor) -> int:
    """How many different memories of the activations' size backward will read."""
    places = set()

    def keep(tensor: Tensor) -> Tensor:
        if tensor.numel() == x.numel():
            places.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(x)
    del output
    return len(places)


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that the allocator had given out at once, beyond what it had before."""
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
        run()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def measure(activation: str, kind: str, layers: int = 20) -> Kept:
    """Runs a step.

    Args:
        activation, kind, layers: as for `stack`.
    """
    torch.manual_seed(0)
    model = stack(activation, kind, layers)
    x = torch.randn(4, CHANNELS, SIZE, SIZE)
    grad = torch.randn_like(x)
    model(x).backward(grad)  # what the libraries keep from their first call on

    def step() -> None:
        model(x).backward(grad)

    return Kept(
        saved_tensors(model, x),
        peak_bytes(lambda: model(x)) / x.nbytes,
        peak_bytes(step) / x.nbytes,
    )


def main(layers: Annotated[int, typer.Option(min=1)] = 20) -> None:
    """Prints a table."""
    table = Table(
        title=f"{layers} layers; in tensors of the activations' size", title_justify="left"
    )
    for column in ("activation", "modules", "saved", "peak of forward", "peak of a step"):
        table.add_column(column, justify="left" if column in ("activation", "modules") else "right")
    for activation in ACTIVATIONS:
        for kind in ("native", "gradkern", "memory-efficient"):
            if kind == "memory-efficient" and activation not in OF_OUTPUT:
                continue
            kept = measure(activation, kind, layers)
            table.add_row(
                activation, kind, str(kept.saved), f"{kept.forward:.1f}", f"{kept.step:.1f}"
            )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
