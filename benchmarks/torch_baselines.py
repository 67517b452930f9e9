"""What gradkern's calls without a native counterpart are compared with, in plain torch calls."""

from __future__ import annotations

from collections.abc import Iterable

import torch


def seven_statistics(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Sum, sum of squares, max |x|, min non-zero |x|, zeros, NaNs and infs of each tensor.

    Each is the fastest torch call found for it: vector_norm instead of `(x * x).sum()` and
    `x.abs().max()`, count_nonzero instead of `(x == 0).sum()`.
    """
    statistics = []
    for x in tensors:
        magnitudes = x.abs()
        smallest = magnitudes.masked_fill_(magnitudes == 0, torch.inf).min()
        values = [
            x.sum(),
            torch.linalg.vector_norm(x).square(),
            torch.linalg.vector_norm(x, torch.inf),
            smallest,
            x.numel() - torch.count_nonzero(x),
            x.isnan().sum(),
            x.isinf().sum(),
        ]
        statistics.append(torch.stack(values))
    return statistics


def clip_each_tensor(parameters: Iterable[torch.Tensor], max_norm: float) -> list[torch.Tensor]:
    """Clips each gradient to its own norm by a loop; returns the norms before."""
    return [torch.nn.utils.clip_grad_norm_(parameter, max_norm) for parameter in parameters]


def norms_by_name(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Each gradient's norm by a loop, as loggers write it."""
    return {
        name: parameter.grad.norm()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


@torch.no_grad()
def adaptive_clip(
    parameters: Iterable[torch.Tensor], clip_factor: float = 0.01, eps: float = 1e-3
) -> None:
    """Adaptive gradient clipping (Brock et al. 2021, eq. 3) in the torch calls that timm makes.

    A unit is an output row of a weight (its first dimension), or a whole vector.
    """

    def unit_norms(x: torch.Tensor) -> torch.Tensor:
        dims = tuple(range(1, x.ndim)) if x.ndim > 1 else None
        norms: torch.Tensor = x.norm(2.0, dim=dims, keepdim=dims is not None)
        return norms

    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        limit = unit_norms(parameter).clamp_(min=eps).mul_(clip_factor)
        norm = unit_norms(gradient)
        clipped = gradient * (limit / norm.clamp(min=1e-6))
        gradient.copy_(torch.where(norm < limit, gradient, clipped))
