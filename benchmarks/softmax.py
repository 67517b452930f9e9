"""Softmax and its logarithm. `python -m benchmarks.softmax` runs these rows alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.rows import Row, Sides, Traffic
from gradkern.softmax import LOG_SOFTMAX, SOFTMAX, Kind

aten = torch.ops.aten

# Attention's rows, and the logits of GPT-2's vocabulary.
WORKLOADS: tuple[tuple[int, int, torch.dtype], ...] = (
    (4096, 1024, torch.float32),
    (256, 50257, torch.float32),
    (4096, 1024, torch.bfloat16),
)
NATIVE = "native"


class SoftmaxData:
    """Rows, a gradient, and a preallocated output."""

    def __init__(self, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> None:
        generator = torch.Generator(device).manual_seed(1989)

        def normal() -> Tensor:
            values = torch.empty((rows, columns), device=device)
            return values.normal_(0, 2, generator=generator).to(dtype)

        self.x, self.grad = normal(), normal()
        self.out = torch.zeros_like(self.x)

    def restore(self) -> None:
        """Nothing that is read is written."""

    def sample(self) -> Tensor:
        return self.out[:64].double()


@dataclass(frozen=True)
class SoftmaxWorkload:
    """A named `SoftmaxData` to be."""

    name: str
    rows: int
    columns: int
    dtype: torch.dtype
    device: torch.device
    tensors: int = 1

    @property
    def elements(self) -> int:
        return self.rows * self.columns

    def make(self) -> SoftmaxData:
        return SoftmaxData(self.rows, self.columns, self.dtype, self.device)


Rows = Iterator[Row[SoftmaxData]]
Prepare = Callable[[SoftmaxData], Sides]


def forward(kind: Kind) -> Prepare:
    """The value along the last dimension into a preallocated tensor."""
    native = aten._softmax.out if kind is SOFTMAX else aten._log_softmax.out

    def prepare(data: SoftmaxData) -> Sides:
        return Sides(
            ours=lambda: kind.value_out(data.x, -1, out=data.out),
            theirs=lambda: native(data.x, -1, False, out=data.out),
            traffic=Traffic(read_write=2 * data.x.nbytes),
        )

    return prepare


def gradient(kind: Kind) -> Prepare:
    """The gradient into a preallocated tensor, from the output, which both sides save."""

    def prepare(data: SoftmaxData) -> Sides:
        saved, dtype = kind.value(data.x, -1), data.x.dtype

        def theirs() -> None:
            if kind is SOFTMAX:
                aten._softmax_backward_data.out(data.grad, saved, -1, dtype, grad_input=data.out)
            else:
                aten._log_softmax_backward_data.out(data.grad, saved, -1, dtype, out=data.out)

        return Sides(
            ours=lambda: kind.backward_out(data.grad, saved, -1, out=data.out),
            theirs=theirs,
            traffic=Traffic(read_write=3 * data.x.nbytes),
        )

    return prepare


def rows(device: torch.device, quick: bool) -> Rows:
    """The family's rows.

    Args:
        device: where the tensors are.
        quick: tiny stand-ins for the workloads.

    Yields:
        Rows, those of one workload together.
    """
    for count, columns, dtype in WORKLOADS:
        size = (16, 50) if quick else (count, columns)
        workload = SoftmaxWorkload(f"{count}x{columns}", *size, dtype, device)
        for kind in (SOFTMAX, LOG_SOFTMAX):
            yield Row(kind.name, NATIVE, workload, forward(kind))
            yield Row(f"{kind.name}, its gradient", NATIVE, workload, gradient(kind))


if __name__ == "__main__":
    from benchmarks.command_line import application

    application({"softmax": rows}, "softmax")()
