"""PReLU as a module."""

from __future__ import annotations

import torch
from torch import Tensor

from gradkern.channelwise_functions import prelu

__all__ = ["PReLU"]


class PReLU(torch.nn.PReLU):
    """:func:`gradkern.functional.prelu` as a module, with its learned slopes.

    A drop-in for :class:`torch.nn.PReLU`: the same arguments, ``state_dict`` and representation.

    Example:
        >>> gradkern.nn.PReLU(3)
        PReLU(num_parameters=3)
    """

    def forward(self, input: Tensor) -> Tensor:
        return prelu(input, self.weight)
