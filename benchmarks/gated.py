"""Gates, biases and slopes. `python -m benchmarks.gated` runs these rows alone.

Forward, both sides write into given tensors; both ways, and where native has no such call (prelu),
both sides' results are fresh tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

import gradkern.functional as gk
from benchmarks.rows import Bar, Row, Sides, Traffic
from gradkern.channelwise import CHANNELWISE
from gradkern.gated import GATED

aten = torch.ops.aten


class GatedData:
    """Two inputs, a gradient, a number for each channel, and preallocated outputs."""

    def __init__(
        self, shape: tuple[int, ...], channel_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        generator = torch.Generator(device).manual_seed(2020)

        def normal(*sizes: int) -> Tensor:
            return torch.empty(sizes, device=device).normal_(generator=generator).to(dtype)

        self.gate, self.up, self.grad = (normal(*shape) for _ in range(3))
        self.per_channel = normal(shape[channel_dim])
        self.out = torch.zeros_like(self.gate)
        self.second_out = torch.zeros_like(self.gate)
        self.per_channel_out = torch.zeros_like(self.per_channel)

    def restore(self) -> None:
        """Nothing that is read is written."""

    def sample(self) -> Tensor:
        return self.out.reshape(-1)[:4096].double()


@dataclass(frozen=True)
class GatedWorkload:
    """A named `GatedData` to be."""

    name: str
    shape: tuple[int, ...]
    channel_dim: int
    dtype: torch.dtype
    device: torch.device
    tensors: int = 1

    @property
    def elements(self) -> int:
        return torch.Size(self.shape).numel()

    def make(self) -> GatedData:
        return GatedData(self.shape, self.channel_dim, self.dtype, self.device)


Rows = Iterator[Row[GatedData]]
Prepare = Callable[[GatedData], Sides]
Function = Callable[..., Tensor]


def opened(name: str, native: Callable[[Tensor, Tensor], object]) -> Prepare:
    """``act(gate) * up``; `native` writes ``act`` of its first argument into its second."""

    def prepare(data: GatedData) -> Sides:
        operator = GATED[name].value_out

        def theirs() -> None:
            native(data.gate, data.second_out)
            torch.mul(data.second_out, data.up, out=data.out)

        return Sides(
            ours=lambda: operator(data.gate, data.up, out=data.out),
            theirs=theirs,
            traffic=Traffic(read_write=3 * data.gate.nbytes),
        )

    return prepare


def both_ways(ours: Function, theirs: Function, inputs: str, tensors: int) -> Prepare:
    """The value and the gradients of all inputs.

    Args:
        ours, theirs: functions of the inputs.
        inputs: "gate, up", "halves" (both in one tensor) or "channels" (an input, and a number for
            each of its channels).
        tensors: how many tensors like the gate our side reads and writes.
    """

    def prepare(data: GatedData) -> Sides:
        given = {
            "gate, up": [data.gate, data.up],
            "halves": [torch.cat([data.gate, data.up], -1)],
            "channels": [data.gate, data.per_channel],
        }[inputs]
        leaves = [tensor.clone().requires_grad_() for tensor in given]

        def side(function: Function) -> Callable[[], Tensor]:
            return lambda: torch.autograd.grad(function(*leaves), leaves, data.grad)[0]

        return Sides(side(ours), side(theirs), Traffic(read_write=tensors * data.gate.nbytes))

    return prepare


def random_slopes(backward: bool) -> Prepare:
    """RReLU in training: without a gradient, or both ways."""

    def prepare(data: GatedData) -> Sides:
        x = data.gate.clone().requires_grad_(backward)

        def side(function: Function) -> Callable[[], Tensor]:
            if not backward:
                return lambda: function(x, training=True)
            return lambda: torch.autograd.grad(function(x, training=True), [x], data.grad)[0]

        def comparable(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
            """Where no slope is drawn."""
            positive = data.gate > 0
            return ours[positive], theirs[positive]

        tensors = 5 if backward else 2
        return Sides(
            side(gk.rrelu),
            side(functional.rrelu),
            Traffic(read_write=tensors * data.gate.nbytes),
            comparable=comparable,
        )

    return prepare


def biased_gelu(data: GatedData) -> Sides:
    """``gelu(x + bias)``."""
    operator = CHANNELWISE["bias_gelu"].value_out

    def theirs() -> None:
        torch.add(data.gate, data.per_channel, out=data.second_out)
        aten.gelu.out(data.second_out, out=data.out)

    return Sides(
        ours=lambda: operator(data.gate, data.per_channel, out=data.out),
        theirs=theirs,
        traffic=Traffic(read_write=2 * data.gate.nbytes),
    )


def biased_gelu_gradients(data: GatedData) -> Sides:
    """Both gradients, from what each side saves: the input, or its sum with the bias."""
    operator = CHANNELWISE["bias_gelu"].backward_out
    summed = data.gate + data.per_channel

    # Each side hands out a copy of the bias's gradient, so that the two can be compared.
    def ours() -> Tensor:
        operator(
            data.grad,
            data.gate,
            data.per_channel,
            grad_input=data.out,
            grad_bias=data.per_channel_out,
        )
        return data.per_channel_out.clone()

    def theirs() -> Tensor:
        aten.gelu_backward.grad_input(data.grad, summed, grad_input=data.out)
        torch.sum(data.out.flatten(0, -2), 0, out=data.per_channel_out)
        return data.per_channel_out.clone()

    return Sides(ours, theirs, Traffic(read_write=3 * data.gate.nbytes))


def learned_slopes(data: GatedData) -> Sides:
    """Without a gradient."""
    return Sides(
        ours=lambda: gk.prelu(data.gate, data.per_channel),
        theirs=lambda: functional.prelu(data.gate, data.per_channel),
        traffic=Traffic(read_write=2 * data.gate.nbytes),
    )


def halves_swiglu(x: Tensor) -> Tensor:
    """As models write it."""
    gate, up = x.chunk(2, -1)
    return functional.silu(gate) * up


def rows(device: torch.device, quick: bool) -> Rows:
    """The family's rows.

    Args:
        device: where the tensors are.
        quick: tiny stand-ins for the workloads.

    Yields:
        Rows, those of one workload together.
    """

    def workload(shape: tuple[int, ...], channel_dim: int, dtype: torch.dtype) -> GatedWorkload:
        name = "x".join(map(str, shape))
        small = tuple(min(size, 8) for size in shape)
        return GatedWorkload(name, small if quick else shape, channel_dim, dtype, device)

    for dtype in (torch.float32, torch.bfloat16):
        # A thousand tokens of Llama 2 7B, and four thousand of GPT-2 small.
        llama = workload((1024, 11008), -1, dtype)
        for name, function, activation, native in (
            ("swiglu", gk.swiglu, functional.silu, lambda x, out: aten.silu.out(x, out=out)),
            ("geglu", gk.geglu, functional.gelu, lambda x, out: aten.gelu.out(x, out=out)),
            ("reglu", gk.reglu, torch.relu, lambda x, out: aten.relu.out(x, out=out)),
        ):
            against = f"{activation.__name__}, product"
            yield Row(name, against, llama, opened(name, native))
            composed = both_ways(
                function, lambda gate, up, f=activation: f(gate) * up, "gate, up", tensors=8
            )
            yield Row(f"{name}, both ways", against, llama, composed)
        of_halves = both_ways(gk.swiglu, halves_swiglu, "halves", tensors=8)
        yield Row("swiglu of halves, both ways", "chunk, silu, product", llama, of_halves)

        # What the bars are for.
        square = workload((4096, 4096), -1, dtype)
        bar = Bar("speedup", 2.0) if device.type == "cpu" and dtype == torch.float32 else None
        swiglu = both_ways(
            gk.swiglu, lambda gate, up: functional.silu(gate) * up, "gate, up", tensors=8
        )
        yield Row("swiglu, both ways", "silu, product", square, swiglu, bar)
        biased = both_ways(
            gk.bias_gelu, lambda x, bias: functional.gelu(x + bias), "channels", tensors=5
        )
        yield Row("bias_gelu, both ways", "sum, gelu", square, biased, bar)

        gpt = workload((4096, 3072), -1, dtype)
        yield Row("bias_gelu", "sum, gelu", gpt, biased_gelu)
        yield Row("bias_gelu, its gradients", "sum, gelu", gpt, biased_gelu_gradients)
        yield Row("bias_gelu, both ways", "sum, gelu", gpt, biased)
        of_silu = both_ways(
            gk.bias_silu, lambda x, bias: functional.silu(x + bias), "channels", tensors=5
        )
        yield Row("bias_silu, both ways", "sum, silu", gpt, of_silu)

        images = workload((64, 64, 56, 56), 1, dtype)
        yield Row("prelu", "native", images, learned_slopes)
        slopes = both_ways(gk.prelu, functional.prelu, "channels", tensors=5)
        yield Row("prelu, both ways", "native", images, slopes)
        yield Row("rrelu, training", "native", images, random_slopes(backward=False))
        yield Row("rrelu, both ways", "native", images, random_slopes(backward=True))


if __name__ == "__main__":
    from benchmarks.command_line import application

    application({"gated": rows}, "gated")()
