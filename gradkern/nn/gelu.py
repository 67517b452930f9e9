"""GELU, which is two rows of the table in one module."""

from __future__ import annotations

import torch

from gradkern.activations import Activation, activation
from gradkern.nn.activation_module import ActivationModule

_ROWS = {"none": activation("gelu"), "tanh": activation("gelu_tanh")}


class GELU(ActivationModule, torch.nn.GELU):
    """The Gaussian error linear unit: :func:`gradkern.functional.gelu` as a module.

    A drop-in for :class:`torch.nn.GELU`: the same argument, attribute and representation.

    Example:
        >>> gradkern.nn.GELU(approximate="tanh")
        GELU(approximate='tanh')
    """

    approximate: str

    @property
    def row(self) -> Activation:  # type: ignore[override]
        return _ROWS[self.approximate]
