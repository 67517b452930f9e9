"""The gated activations as modules."""

from __future__ import annotations

import torch
from torch import Tensor

from gradkern.gated_functions import geglu, reglu, swiglu

__all__ = ["GEGLU", "ReGLU", "SwiGLU"]


class SwiGLU(torch.nn.Module):
    """:func:`gradkern.functional.swiglu` as a module: of a gate and what it gates, or of a tensor
    whose last dimension's first half is the gate.

    Example:
        >>> gradkern.nn.SwiGLU()(torch.randn(2, 8)).shape
        torch.Size([2, 4])
    """

    def forward(self, gate: Tensor, up: Tensor | None = None) -> Tensor:
        return swiglu(gate, up)


class GEGLU(torch.nn.Module):
    """:func:`gradkern.functional.geglu` as a module.

    Args:
        approximate: "none" or "tanh".

    Example:
        >>> gradkern.nn.GEGLU(approximate="tanh")
        GEGLU(approximate='tanh')
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, gate: Tensor, up: Tensor | None = None) -> Tensor:
        return geglu(gate, up, approximate=self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class ReGLU(torch.nn.Module):
    """:func:`gradkern.functional.reglu` as a module.

    Example:
        >>> gradkern.nn.ReGLU()(torch.tensor([1.0, -1.0]), torch.tensor([2.0, 3.0]))
        tensor([2., 0.])
    """

    def forward(self, gate: Tensor, up: Tensor | None = None) -> Tensor:
        return reglu(gate, up)
