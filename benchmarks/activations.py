"""The table's activations. `python -m benchmarks.activations` runs these rows alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.native_activations import backward_call, forward_call, has_backward
from benchmarks.rows import Bar, Row, Sides, Traffic
from gradkern.activations import TABLE, Activation

# Their formulas cost more than the memory they move, natively.
TWICE_IN_CACHE = {"elu", "selu", "mish", "softplus", "logsigmoid"}

FORWARD, BACKWARD = "forward", "backward"
WITH_DERIVATIVE, WITH_STATS = "with derivative", "with stats"
NATIVE, OUR_FORWARD = "native", "our forward"


class ActivationData:
    """One input, a gradient, the value, and preallocated outputs."""

    def __init__(self, elements: int, dtype: torch.dtype, device: torch.device) -> None:
        generator = torch.Generator(device).manual_seed(2013)
        self.x = torch.empty(elements, device=device).normal_(0, 2, generator=generator).to(dtype)
        self.grad = torch.empty(elements, device=device).normal_(generator=generator).to(dtype)
        self.out = torch.empty_like(self.x)
        self.second_out = torch.empty_like(self.x)

    def restore(self) -> None:
        """Nothing that is read is written."""

    def sample(self) -> Tensor:
        return self.out[:4096].double()


@dataclass(frozen=True)
class ActivationWorkload:
    """A named `ActivationData` to be."""

    name: str
    elements: int
    dtype: torch.dtype
    device: torch.device
    tensors: int = 1

    def make(self) -> ActivationData:
        return ActivationData(self.elements, self.dtype, self.device)


Rows = Iterator[Row[ActivationData]]
Prepare = Callable[[ActivationData], Sides]


def forward(row: Activation) -> Prepare:
    """The value into a preallocated tensor, against native's."""

    def prepare(data: ActivationData) -> Sides:
        return Sides(
            ours=lambda: row.value_out(data.x, *row.defaults(), out=data.out),
            theirs=forward_call(row.name, data.x, data.out, data.second_out),
            traffic=Traffic(read_write=2 * data.x.nbytes),
        )

    return prepare


def backward(row: Activation) -> Prepare:
    """The gradient into a preallocated tensor, against native's, from what both save."""

    def prepare(data: ActivationData) -> Sides:
        saved = row.value(data.x, *row.defaults()) if row.saves_output else data.x
        operator = row.backward_of_output_out if row.saves_output else row.backward_out
        theirs = backward_call(row.name, data.grad, saved, data.out, data.second_out)
        return Sides(
            ours=lambda: operator(data.grad, saved, *row.defaults(), out=data.out),
            theirs=theirs,
            traffic=Traffic(read_write=3 * data.x.nbytes),
        )

    return prepare


def with_derivative(row: Activation) -> Prepare:
    """Value and derivative, against the value alone."""

    def prepare(data: ActivationData) -> Sides:
        return Sides(
            ours=lambda: row.with_derivative_out(
                data.x, *row.defaults(), out=data.out, derivative_out=data.second_out
            ),
            theirs=lambda: row.value_out(data.x, *row.defaults(), out=data.out),
            traffic=Traffic(read_write=3 * data.x.nbytes),
        )

    return prepare


def with_stats(row: Activation) -> Prepare:
    """Value and statistics, against the value alone; both into fresh memory."""

    def prepare(data: ActivationData) -> Sides:
        return Sides(
            ours=lambda: row.with_stats(data.x, *row.defaults(), None)[0],
            theirs=lambda: row.value(data.x, *row.defaults()),
            traffic=Traffic(read_write=2 * data.x.nbytes),
        )

    return prepare


def rows(device: torch.device, quick: bool) -> Rows:
    """The family's rows: every activation of the table.

    Args:
        device: where the tensors are.
        quick: tiny stand-ins for the workloads.

    Yields:
        Rows, those of one workload together.
    """
    judged = device.type == "cpu"
    for dtype in (torch.float32, torch.bfloat16):
        for name, elements in (("16M", 1 << 24), ("1M", 1 << 20)):
            workload = ActivationWorkload(name, 4096 if quick else elements, dtype, device)
            for row in TABLE.values():
                bar = Bar("speedup", 0.97) if judged else None
                yield Row(f"{row.name} {FORWARD}", NATIVE, workload, forward(row), bar)
                if has_backward(row.name):
                    yield Row(f"{row.name} {BACKWARD}", NATIVE, workload, backward(row), bar)
            if name != "16M" or dtype != torch.float32:
                continue
            for row in TABLE.values():
                bar = Bar("share", 1 / 1.3) if judged else None
                yield Row(
                    f"{row.name} {WITH_DERIVATIVE}",
                    OUR_FORWARD,
                    workload,
                    with_derivative(row),
                    bar,
                )
                bar = Bar("time", 1.15) if judged else None
                yield Row(f"{row.name} {WITH_STATS}", OUR_FORWARD, workload, with_stats(row), bar)
    in_cache = ActivationWorkload(
        "32K, in cache", 4096 if quick else 1 << 15, torch.float32, device
    )
    for row in TABLE.values():
        bar = Bar("speedup", 2) if judged and row.name in TWICE_IN_CACHE else None
        yield Row(f"{row.name} {FORWARD}", NATIVE, in_cache, forward(row), bar)


if __name__ == "__main__":
    from benchmarks.command_line import application

    application({"activations": rows}, "activations")()
