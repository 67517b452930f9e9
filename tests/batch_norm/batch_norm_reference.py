"""Batch normalisation in float64, by torch's own functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

ACTIVATIONS = ("identity", "relu", "leaky_relu", "elu", "silu", "gelu")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

# Rounding of the result, and of float32 arithmetic on the way to a 16-bit one. relu's derivative
# jumps: `Problem` keeps its inputs away from there.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11,
}


def activate(name: str, z: Tensor) -> Tensor:
    """The activation by torch's function."""
    return z if name == "identity" else getattr(F, name)(z)


@dataclass
class Problem:
    """The tensors of a batch normalisation."""

    x: Tensor
    residual: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    grad: Tensor

    @classmethod
    def make(
        cls,
        shape: Sequence[int],
        dtype: torch.dtype,
        *,
        residual: bool = False,
        affine: bool = True,
        channels_last: bool = False,
        mean: float = 1.0,
        std: float = 3.0,
    ) -> Problem:
        """Normal values, the same every time."""
        generator = torch.Generator().manual_seed(sum(shape))

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=generator, dtype=torch.float64)

        def elements() -> Tensor:
            values = normal(*shape)
            if channels_last:
                order = (0, *range(2, len(shape)), 1)
                back = (0, len(shape) - 1, *range(1, len(shape) - 1))
                values = values.permute(order).contiguous().permute(back)
            return values

        parameters = torch.float64 if dtype == torch.float64 else torch.float32
        channels = shape[1]
        return cls(
            x=(elements() * std + mean).to(dtype),
            residual=elements().to(dtype) if residual else None,
            weight=(normal(channels) + 2).to(parameters) if affine else None,
            bias=normal(channels).to(parameters) if affine else None,
            grad=elements().to(dtype),
        )

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return self.x, self.residual, self.weight, self.bias

    def on(self, device: torch.device) -> Problem:
        """The same on a device."""
        moved = [None if t is None else t.to(device) for t in (*self.tensors, self.grad)]
        return Problem(*moved)  # type: ignore[arg-type]


def with_gradients(function: object, problem: Problem) -> tuple[Tensor, list[Tensor]]:
    """What a function of the four tensors gives, and its gradients."""
    inputs = [None if t is None else t.clone().requires_grad_() for t in problem.tensors]
    output = function(*inputs)  # type: ignore[operator]
    wanted = [t for t in inputs if t is not None]
    return output.detach(), list(torch.autograd.grad(output, wanted, problem.grad.to(output.dtype)))


def reference(
    problem: Problem,
    activation: str,
    eps: float = 1e-5,
    running: tuple[Tensor, Tensor] | None = None,
    training: bool = True,
) -> tuple[Tensor, list[Tensor]]:
    """Value and gradients in float64; moves the running statistics in training."""
    wide = Problem(*(None if t is None else t.double() for t in (*problem.tensors, problem.grad)))  # type: ignore[arg-type]
    mean, var = running or (None, None)

    def function(
        x: Tensor, residual: Tensor | None, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        z = F.batch_norm(x, mean, var, weight, bias, training, 0.1, eps)
        return activate(activation, z if residual is None else z + residual)

    return with_gradients(function, wide)


def error(got: Tensor, want: Tensor) -> float:
    """The largest difference, relative to the largest magnitude."""
    if want.numel() == 0:
        return 0.0
    got, want = got.cpu().double(), want.double()
    return ((got - want).abs().max() / want.abs().max().clamp(min=1e-300)).item()
