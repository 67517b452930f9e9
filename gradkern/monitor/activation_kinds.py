"""What the monitor knows about torch's activation functions, in one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from gradkern.activations import TABLE
from gradkern.nn.activation_module import ActivationModule
from gradkern.nn.batch_norm import FusedBatchNorm

# Karpathy ("makemore 3", 2022) calls a tanh saturated beyond .97; the sigmoid's ends are those
# where its slope has fallen to a fifth of its largest.
TANH_FLAT = 0.97
SIGMOID_FLAT = 0.05


@dataclass(frozen=True)
class ActivationKind:
    """How to read the output of an activation function.

    Attributes:
        saturated: the elements in flat ends, as a bool tensor; None where there are none.
        derivative: the derivative, from the output; None where the output doesn't tell.
        can_die: whether a unit that puts out 0 has a derivative of 0.
        largest_slope: of the function.
    """

    saturated: Callable[[Tensor], Tensor] | None = None
    derivative: Callable[[Tensor], Tensor] | None = None
    can_die: bool = False
    largest_slope: float = 1.0


_SIGMOID = ActivationKind(
    saturated=lambda y: (y < SIGMOID_FLAT) | (y > 1 - SIGMOID_FLAT),
    derivative=lambda y: y * (1 - y),
    largest_slope=0.25,
)
_TANH = ActivationKind(
    saturated=lambda y: y.abs() > TANH_FLAT,
    derivative=lambda y: 1 - y * y,
)
_RELU = ActivationKind(derivative=lambda y: (y > 0).to(y.dtype), can_die=True)
_OTHER = ActivationKind()

# By class name, so that modules of other packages which name themselves alike are understood too.
_KINDS: dict[str, ActivationKind] = {
    "Sigmoid": _SIGMOID,
    "Tanh": _TANH,
    "ReLU": _RELU,
    "ReLU6": ActivationKind(derivative=lambda y: ((y > 0) & (y < 6)).to(y.dtype), can_die=True),
}

_NOT_ELEMENTWISE = (nn.MultiheadAttention, nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d)
_NORMALISING = (
    nn.modules.batchnorm._BatchNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)


def class_of(module: nn.Module) -> str:
    """The class of the activation function that makes a module's output; else the module's."""
    if isinstance(module, FusedBatchNorm) and module.activation != "identity":
        return TABLE[module.activation].module
    return type(module).__name__


def kind_of(module: nn.Module) -> ActivationKind:
    """The row of the table that a module belongs to."""
    return _KINDS.get(class_of(module), _OTHER)


def is_activation(module: nn.Module) -> bool:
    """Whether it ends with an elementwise activation function: torch's, ours, or named so."""
    if isinstance(module, _NOT_ELEMENTWISE):
        return False
    if isinstance(module, ActivationModule):
        return True
    if isinstance(module, FusedBatchNorm):
        return module.activation != "identity"
    return (
        type(module).__module__ == "torch.nn.modules.activation" or type(module).__name__ in _KINDS
    )


def is_normalisation(module: nn.Module) -> bool:
    """Whether it normalises: batch, layer, group, instance or RMS norm."""
    return isinstance(module, _NORMALISING)


def is_batch_norm(module: nn.Module) -> bool:
    """Whether its statistics are taken over a batch."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(
        module, nn.modules.instancenorm._InstanceNorm
    )
