"""Batch normalisation. `python -m benchmarks.batch_norm` runs these rows alone.

Results are fresh tensors on both sides: native has no batch normalisation into a given one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

import gradkern.functional as gk
from benchmarks.rows import Bar, Row, Sides, Traffic
from gradkern import batch_norm as operators
from gradkern.batch_norm import fused_activation

SHAPES: dict[str, tuple[int, ...]] = {
    "64x256x32x32": (64, 256, 32, 32),
    "32x64x112x112": (32, 64, 112, 112),
    "128x2048": (128, 2048),
    "8x512x7x7": (8, 512, 7, 7),
}
MOMENTUM, EPS = 0.1, 1e-5
NATIVE, INDUCTOR = "native", "Inductor"
GRADIENTS, WITH_ADDITION = "BN, its gradients", "BN+add+ReLU, both ways"


class BatchNormData:
    """An input, a residual, a gradient and a layer's parameters and buffers."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        channels_last: bool,
    ) -> None:
        generator = torch.Generator(device).manual_seed(2015)

        def normal() -> Tensor:
            values = torch.empty(shape, device=device).normal_(generator=generator).to(dtype)
            if channels_last:
                values = values.contiguous(memory_format=torch.channels_last)
            return values

        self.x, self.residual, self.grad = normal(), normal(), normal()
        channels = shape[1]
        self.weight = torch.ones(channels, device=device)
        self.bias = torch.zeros(channels, device=device)
        self.running = torch.zeros(channels, device=device), torch.ones(channels, device=device)

    def restore(self) -> None:
        """The running statistics move at every call, and enter no result that is compared."""

    def sample(self) -> Tensor:
        return self.x.reshape(-1)[:4096].double()


@dataclass(frozen=True)
class BatchNormWorkload:
    """A named `BatchNormData` to be."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    channels_last: bool
    tensors: int = 1

    @property
    def elements(self) -> int:
        return torch.Size(self.shape).numel()

    def make(self) -> BatchNormData:
        return BatchNormData(self.shape, self.dtype, self.device, self.channels_last)


Rows = Iterator[Row[BatchNormData]]
Prepare = Callable[[BatchNormData], Sides]


def forward(data: BatchNormData) -> Sides:
    """Training, without a gradient."""
    rest = (*data.running, data.weight, data.bias, True, MOMENTUM, EPS)
    return Sides(
        ours=lambda: gk.batch_norm(data.x, *rest),
        theirs=lambda: functional.batch_norm(data.x, *rest),
        traffic=Traffic(read_write=2 * data.x.nbytes),
    )


def backward(data: BatchNormData) -> Sides:
    """The three gradients, from what both sides save."""
    native = torch.ops.aten.native_batch_norm_backward
    _, mean, invstd = torch.native_batch_norm(
        data.x, data.weight, data.bias, *data.running, True, MOMENTUM, EPS
    )
    _, our_mean, our_invstd = gk.batch_norm_forward(data.x, data.weight, data.bias, EPS)
    return Sides(
        ours=lambda: gk.batch_norm_backward(
            data.grad, data.x, data.weight, our_mean, our_invstd, bias=data.bias
        )[0],
        theirs=lambda: native(
            data.grad, data.x, data.weight, *data.running, mean, invstd, True, EPS, [True] * 3
        )[0],
        traffic=Traffic(read_write=3 * data.x.nbytes),
    )


def backward_against_floor(data: BatchNormData) -> Sides:
    """The gradients against the plainest call that reads and writes as much, but reads once."""
    ours = backward(data).ours
    return Sides(
        ours,
        theirs=lambda: data.x + data.grad,
        traffic=Traffic(read_write=3 * data.x.nbytes),
        # Another operation: of the results nothing is compared.
        comparable=lambda ours, theirs: (ours[:0], theirs[:0]),
    )


def both_ways(residual: bool, compiled: bool = False) -> Prepare:
    """Normalisation, (addition and) ReLU: forward and backward.

    Args:
        residual: whether something is added.
        compiled: whether theirs is compiled by Inductor.
    """

    def prepare(data: BatchNormData) -> Sides:
        x = data.x.clone().requires_grad_()
        r = data.residual.clone().requires_grad_() if residual else None
        weight, bias = (t.clone().requires_grad_() for t in (data.weight, data.bias))
        wanted = [t for t in (x, r, weight, bias) if t is not None]
        rest = (*data.running, weight, bias, True, MOMENTUM, EPS)

        def ours() -> Tensor:
            y = gk.batch_norm(x, *rest, activation="relu", residual=r)
            return torch.autograd.grad(y, wanted, data.grad)[0]

        def composed(x: Tensor, r: Tensor | None) -> Tensor:
            z = functional.batch_norm(x, *rest)
            return torch.relu(z if r is None else z + r)

        compose = torch.compile(composed) if compiled else composed

        def theirs() -> Tensor:
            return torch.autograd.grad(compose(x, r), wanted, data.grad)[0]

        def comparable(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
            """Where errors of what ReLU is of don't decide whether the gradient is 0.

            Those of native are up to 1.6e-6 of the largest element: its float32 sums. What it
            decides otherwise moves a channel's sums a little: hence the norm of the difference.
            """
            z = functional.batch_norm(
                data.x.double(), None, None, weight.double(), bias.double(), True, MOMENTUM, EPS
            )
            z = z if r is None else z + r
            error = max(4 * torch.finfo(data.x.dtype).eps, 1e-5)
            decided = z.abs() > error * z.abs().max()
            ours, theirs = ours[decided].double(), theirs[decided].double()
            one = torch.ones((), dtype=torch.float64, device=theirs.device)
            return one + (ours - theirs).norm() / theirs.norm(), one

        tensors = 8 if residual else 5
        traffic = Traffic(read_write=tensors * data.x.nbytes)
        return Sides(ours, theirs, traffic, comparable=comparable)

    return prepare


def evaluation(data: BatchNormData) -> Sides:
    """By running statistics, with addition and ReLU, without a gradient."""
    rest = (*data.running, data.weight, data.bias, False, MOMENTUM, EPS)
    return Sides(
        ours=lambda: gk.batch_norm(data.x, *rest, activation="relu", residual=data.residual),
        theirs=lambda: torch.relu(functional.batch_norm(data.x, *rest) + data.residual),
        traffic=Traffic(read_write=3 * data.x.nbytes),
    )


def measured(data: BatchNormData) -> Sides:
    """Training with ReLU, and the statistics of the output from the pass that writes it."""
    relu = fused_activation("relu")
    rest = (*data.running, data.weight, data.bias, True, MOMENTUM, EPS)
    return Sides(
        ours=lambda: operators.training_with_stats(
            data.x,
            None,
            data.weight,
            data.bias,
            *data.running,
            MOMENTUM,
            EPS,
            relu.index,
            relu.parameter,
        )[0],
        theirs=lambda: gk.batch_norm(data.x, *rest, activation="relu"),
        traffic=Traffic(read_write=2 * data.x.nbytes),
    )


def rows(device: torch.device, quick: bool) -> Rows:
    """The family's rows.

    Args:
        device: where the tensors are.
        quick: tiny stand-ins for the workloads.

    Yields:
        Rows, those of one workload together.
    """
    judged = device.type == "cpu"
    kinds: list[tuple[str, str, Prepare, Bar | None]] = [
        ("BN, training", NATIVE, forward, Bar("speedup", 1.3)),
        (GRADIENTS, NATIVE, backward, Bar("speedup", 1.2, alternative=True)),
        (GRADIENTS, "x + g", backward_against_floor, Bar("speedup", 0.9, alternative=True)),
        ("BN+ReLU, both ways", NATIVE, both_ways(residual=False), Bar("speedup", 2.0)),
        (WITH_ADDITION, NATIVE, both_ways(residual=True), Bar("speedup", 2.5)),
        ("BN+add+ReLU, evaluation", NATIVE, evaluation, Bar("speedup", 1.5)),
        ("BN+ReLU, with statistics", "without", measured, None),
    ]
    by_inductor = (WITH_ADDITION, INDUCTOR, both_ways(True, compiled=True), None)
    for dtype in (torch.float32, torch.bfloat16):
        for name, shape in SHAPES.items():
            for channels_last in (False, True) if len(shape) > 2 else (False,):
                small = (2, *(min(size, 4) for size in shape[1:]))
                workload = BatchNormWorkload(
                    f"{name} channels-last" if channels_last else name,
                    small if quick else shape,
                    dtype,
                    device,
                    channels_last,
                )
                # Of tiny stand-ins the compilation alone would be measured.
                peers = [] if channels_last or quick else [by_inductor]
                for operation, against, prepare, bar in kinds + peers:
                    yield Row(operation, against, workload, prepare, bar if judged else None)


if __name__ == "__main__":
    from benchmarks.command_line import application

    application({"batch_norm": rows}, "batch_norm")()
