"""Softmax, its logarithm and softmin as modules."""

from __future__ import annotations

import torch
from torch import Tensor

from gradkern.softmax_functions import log_softmax, softmax, softmin

__all__ = ["LogSoftmax", "Softmax", "Softmin"]

# From the caller of the module to the function: what a warning is about.
_STACKLEVEL = 5


class Softmax(torch.nn.Softmax):
    """:func:`gradkern.functional.softmax` as a module.

    A drop-in for :class:`torch.nn.Softmax`: the same argument, attribute and representation.

    Example:
        >>> gradkern.nn.Softmax(dim=-1)
        Softmax(dim=-1)
    """

    def forward(self, input: Tensor) -> Tensor:
        return softmax(input, self.dim, _stacklevel=_STACKLEVEL)


class LogSoftmax(torch.nn.LogSoftmax):
    """:func:`gradkern.functional.log_softmax` as a module.

    A drop-in for :class:`torch.nn.LogSoftmax`: the same argument, attribute and representation.

    Example:
        >>> gradkern.nn.LogSoftmax(dim=1)
        LogSoftmax(dim=1)
    """

    def forward(self, input: Tensor) -> Tensor:
        return log_softmax(input, self.dim, _stacklevel=_STACKLEVEL)


class Softmin(torch.nn.Softmin):
    """:func:`gradkern.functional.softmin` as a module.

    A drop-in for :class:`torch.nn.Softmin`: the same argument, attribute and representation.

    Example:
        >>> gradkern.nn.Softmin(dim=0)
        Softmin(dim=0)
    """

    def forward(self, input: Tensor) -> Tensor:
        return softmin(input, self.dim, _stacklevel=_STACKLEVEL)
