"""RReLU as a module."""

from __future__ import annotations

import torch
from torch import Tensor

from gradkern.rrelu_functions import rrelu

__all__ = ["RReLU"]


class RReLU(torch.nn.RReLU):
    """:func:`gradkern.functional.rrelu` as a module: random slopes in training mode only.

    A drop-in for :class:`torch.nn.RReLU`: the same arguments, attributes and representation.

    Example:
        >>> gradkern.nn.RReLU(0.1, 0.3)
        RReLU(lower=0.1, upper=0.3)
    """

    def forward(self, input: Tensor) -> Tensor:
        return rrelu(input, self.lower, self.upper, self.training, self.inplace)
