"""What the activations' modules have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from gradkern.activation_calls import call, call_with_stats
from gradkern.activations import Activation, ActivationStats, as_number

SAVES = ("output", "input")


class ActivationModule(torch.nn.Module):
    """An activation of the table as a module.

    Attributes:
        row: its row of the table.
        save: what is kept for backward of a function that can keep its output: "output" or "input".
        on_stats: if set, called with the module and the :class:`gradkern.ActivationStats` of every
            forward pass; they come from the same pass over memory.
        channel_dim: the dimension of the units in the statistics, or None.

    Example:
        >>> relu = gradkern.nn.ReLU()
        >>> relu.on_stats = lambda module, stats: print(stats.saturated_fraction.item())
        >>> relu(torch.tensor([-1.0, 1.0]))
        0.5
        tensor([0., 1.])
    """

    row: ClassVar[Activation]
    save: str = "output"
    on_stats: Callable[[ActivationModule, ActivationStats], None] | None = None
    channel_dim: int | None = None

    def __init__(self, *arguments: Any, save: str = "output", **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        if save not in SAVES:
            raise ValueError(f"save is {save!r}; it must be one of {', '.join(SAVES)}")
        if save != "output":
            self.save = save

    def forward(self, input: Tensor) -> Tensor:
        parameters = tuple(as_number(getattr(self, name), name) for name, _ in self.row.parameters)
        if self.on_stats is not None:
            output, stats = call_with_stats(
                self.row, input, parameters, self.channel_dim, self.save
            )
            self.on_stats(self, stats)
            return output
        inplace = getattr(self, "inplace", False)
        return call(self.row, input, parameters, inplace, save=self.save)


class TableModule(ActivationModule):
    """An activation that torch has no module for: its arguments are the row's parameters."""

    def __init__(
        self, *arguments: float, inplace: bool = False, save: str = "output", **named: float
    ) -> None:
        super().__init__(save=save)
        names = [name for name, _ in self.row.parameters]
        values = dict(self.row.parameters)
        if len(arguments) > len(names) or not named.keys() <= values.keys():
            raise TypeError(f"{type(self).__name__} takes {', '.join([*names, 'inplace', 'save'])}")
        values.update(zip(names, arguments, strict=False))
        values.update(named)
        for name, value in values.items():
            setattr(self, name, value)
        self.inplace = inplace

    def extra_repr(self) -> str:
        shown = [f"{name}={getattr(self, name)}" for name, _ in self.row.parameters]
        return ", ".join([*shown, *(["inplace=True"] if self.inplace else [])])
