"""The gated activations, as they are in the compiled library, with their operators.

A gated activation is written once, in ``csrc/formulas/gated_activations.h``: an activation of the
table opens the gate.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradkern import _core
from gradkern import _load as _load  # registers the operators
from gradkern.activations import Activation, activation


class Gated:
    """One gated activation, ``act(gate) * up``.

    Attributes:
        name: as a function.
        activation: the row of the table that opens the gate.
        value, backward: the operators for a gate and what it gates.
        split, split_backward: those for both as the halves of one tensor's last dimension.

    Example:
        >>> from gradkern.gated import GATED
        >>> GATED["reglu"].value(torch.tensor([-1.0, 2.0]), torch.tensor([3.0, 4.0]))
        tensor([0., 8.])
    """

    def __init__(self, name: str, activation: Activation) -> None:
        self.name = name
        self.activation = activation
        # The overloads, looked up once: an attribute chain through torch.ops costs .45 us a call.
        self.value, self.value_out = self._overloads("")
        self.backward, self.backward_out = self._overloads("_backward")
        self.split, self.split_out = self._overloads("_split")
        self.split_backward, self.split_backward_out = self._overloads("_split_backward")

    def _overloads(self, suffix: str) -> tuple[torch._ops.OpOverload, torch._ops.OpOverload]:
        packet = getattr(torch.ops.gradkern, self.name + suffix)
        return packet.default, packet.out

    def __repr__(self) -> str:
        return f"Gated({self.name})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _gated, (self.name,)


GATED: dict[str, Gated] = {
    name: Gated(name, activation(of)) for name, of in _core.gated_activations
}


def _gated(name: str) -> Gated:
    return GATED[name]


def _register_fakes(gated: Gated) -> None:
    """What each operator gives for tensors that have no data."""

    def value(gate: Tensor, up: Tensor) -> Tensor:
        return torch.empty_like(gate)

    def backward(grad_output: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        return torch.empty_like(gate), torch.empty_like(gate)

    def split(input: Tensor) -> Tensor:
        return input.new_empty((*input.shape[:-1], input.shape[-1] // 2))

    def split_backward(grad_output: Tensor, input: Tensor) -> Tensor:
        return input.new_empty(input.shape)

    def nothing(*arguments: Any, **keywords: Any) -> None:
        return None

    fakes: dict[str, Any] = {
        "": value,
        "_backward": backward,
        "_split": split,
        "_split_backward": split_backward,
    }
    for suffix, fake in fakes.items():
        torch.library.register_fake(f"gradkern::{gated.name}{suffix}", fake)
        torch.library.register_fake(f"gradkern::{gated.name}{suffix}.out", nothing)


for _entry in GATED.values():
    _register_fakes(_entry)
