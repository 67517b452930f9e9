"""What a call of an activation costs beside its arithmetic. `python -m benchmarks.call_overhead`.

The public functions on 64 elements, a hundred calls at a time, as `timeit` would: one call is
shorter than what a clock and a closure add to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import gradkern.functional as gk
from benchmarks.activations import ActivationData, ActivationWorkload
from benchmarks.rows import Bar, Row, Sides, Traffic

ELEMENTS, CALLS = 64, 100

# tanh saves its output, the others their input; gelu also takes a word, softplus two numbers.
NAMES = ("tanh", "relu", "silu", "gelu", "softplus")

WITHOUT_GRAD, WITH_GRAD, BOTH_WAYS = "no grad", "with grad", "both ways"

# Seconds of one call, for the CPU.
LIMITS = {WITHOUT_GRAD: 3e-6, WITH_GRAD: 10e-6, BOTH_WAYS: 45e-6}

Rows = Iterator[Row[ActivationData]]
Function = Callable[[Tensor], Any]


def repeated(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The call, `CALLS` times; the last result."""

    def calls() -> Tensor:
        for _ in range(CALLS):
            result = call()
        return result

    return calls


def values(ours: Function, theirs: Function, grad: bool) -> Callable[[ActivationData], Sides]:
    """Values alone; `grad`: of a tensor that requires it."""

    def prepare(data: ActivationData) -> Sides:
        x = data.x.clone().requires_grad_(grad)
        return Sides(
            ours=repeated(lambda: ours(x)),
            theirs=repeated(lambda: theirs(x)),
            traffic=Traffic(read_write=2 * CALLS * x.nbytes),
            comparable=lambda a, b: (a.detach(), b.detach()),
        )

    return prepare


def gradients(ours: Function, theirs: Function) -> Callable[[ActivationData], Sides]:
    """A value and the gradient of its input, which is a fresh tensor each time."""

    def prepare(data: ActivationData) -> Sides:
        x = data.x.clone().requires_grad_()

        def gradient(function: Function) -> Tensor:
            del x.grad
            function(x).backward(data.grad)
            return x.grad  # type: ignore[return-value]

        return Sides(
            ours=repeated(lambda: gradient(ours)),
            theirs=repeated(lambda: gradient(theirs)),
            traffic=Traffic(read_write=5 * CALLS * x.nbytes),
        )

    return prepare


def rows(device: torch.device, quick: bool) -> Rows:
    """The family's rows. It has no smaller stand-ins.

    Args:
        device: where the tensors are.
        quick: is ignored.

    Yields:
        Rows, all of one workload.
    """
    workload = ActivationWorkload(f"{ELEMENTS} elements", ELEMENTS, torch.float32, device)
    for name in NAMES:
        ours, theirs = getattr(gk, name), getattr(functional, name)
        for operation, prepare in (
            (WITHOUT_GRAD, values(ours, theirs, grad=False)),
            (WITH_GRAD, values(ours, theirs, grad=True)),
            (BOTH_WAYS, gradients(ours, theirs)),
        ):
            bar = Bar("seconds", CALLS * LIMITS[operation]) if device.type == "cpu" else None
            yield Row(f"{name}, {CALLS} calls, {operation}", "native", workload, prepare, bar)


if __name__ == "__main__":
    from benchmarks.command_line import application

    application({"call_overhead": rows}, "call_overhead")()
