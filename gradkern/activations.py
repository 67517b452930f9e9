"""The table of activations, as it is in the compiled library, with the operators of each row.

A row is written once, in ``csrc/formulas``; schemas, kernels, gradients, public functions, modules,
documentation, tests and benchmarks follow from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradkern import _core
from gradkern import _load as _load  # registers the operators


class Activation:
    """One row of the table.

    Attributes:
        index: the row's number.
        name: as a function; ``module``: as a module.
        summary, expression, source, saturation: what it is, its formula, who proposed it, and when
            a unit counts as saturated.
        parameters: names and default values.
        saves_output: whether backward needs the output, and not the input.
        smooth: whether it has a second derivative everywhere but in isolated points.
    """

    def __init__(self, index: int, row: dict[str, Any]) -> None:
        self.index = index
        self.name: str = row["name"]
        self.module: str = row["module"]
        self.summary: str = row["summary"]
        self.expression: str = row["expression"]
        self.source: str = row["source"]
        self.saturation: str = row["saturation"]
        self.parameters: tuple[tuple[str, float], ...] = row["parameters"]
        self.saves_output: bool = row["saves_output"]
        self.smooth: bool = row["smooth"]
        # The overloads, looked up once: an attribute chain through torch.ops costs .45 us a call.
        self.value = self._operator("")
        self.value_out = self._operator("", "out")
        self.value_ = self._operator("_")
        self.derivative = self._operator("_derivative")
        self.with_derivative = self._operator("_with_derivative")
        self.with_derivative_out = self._operator("_with_derivative", "out")
        self.with_stats = self._operator("_with_stats")
        self.backward = self._operator("_backward")
        self.backward_out = self._operator("_backward", "out")
        self.second = self._operator("_second")
        if self.saves_output:
            self.backward_of_output = self._operator("_backward_of_output")
            self.backward_of_output_out = self._operator("_backward_of_output", "out")
            self.second_of_output = self._operator("_second_of_output")

    def _operator(self, suffix: str, overload: str = "default") -> torch._ops.OpOverload:
        packet = getattr(torch.ops.gradkern, self.name + suffix)
        operator: torch._ops.OpOverload = getattr(packet, overload)
        return operator

    def __repr__(self) -> str:
        return f"Activation({self.name})"

    def __reduce__(self) -> tuple[Any, ...]:
        return activation, (self.name,)

    def can_save_output(self, parameters: Sequence[float]) -> bool:
        """Whether the output tells the derivative: with a negative alpha its sign does not."""
        return self.saves_output and all(p >= 0 for p in parameters)

    def defaults(self) -> tuple[float, ...]:
        """The default values of the parameters."""
        return tuple(standard for _, standard in self.parameters)


TABLE: dict[str, Activation] = {
    row["name"]: Activation(index, row) for index, row in enumerate(_core.activations)
}


def activation(name: str) -> Activation:
    """The row of a name.

    Raises:
        ValueError: there is no such activation.

    Example:
        >>> activation("silu").expression
        'x / (1 + exp(-x))'
    """
    try:
        return TABLE[name]
    except KeyError:
        raise ValueError(f"name is {name!r}; it must be one of {', '.join(TABLE)}") from None


def as_number(value: Any, argument: str) -> float:
    """An activation's parameter, with native's exception type for what is no number.

    Args:
        value: a number of Python's or NumPy's, or a tensor without dimensions.
        argument: what it is called where it was given.

    Raises:
        TypeError: ``value`` is something else; or it is a tensor that requires grad, of which a
            number would silently drop the gradient.

    Example:
        >>> as_number(2, "alpha")
        2.0
    """
    if type(value) is float:
        return value
    if isinstance(value, Tensor):
        if value.dim() > 0:
            raise TypeError(
                f"{argument} is a tensor of shape {tuple(value.shape)}; it must be a number, or "
                "have no dimensions"
            )
        if value.requires_grad:
            raise TypeError(f"{argument} is a tensor that requires grad; it must be a number")
    if not isinstance(value, (str, bytes, bytearray)):  # float() would read them
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    raise TypeError(f"{argument} is a {type(value).__name__}; it must be a real number")


def _register_fakes(row: Activation) -> None:
    """What each operator of a row gives for tensors that have no data."""

    def fake(suffix: str, function: Any) -> None:
        torch.library.register_fake(f"gradkern::{row.name}{suffix}", function)

    def one(*arguments: Any) -> Tensor:
        return torch.empty_like(arguments[0])

    def two(input: Tensor, *parameters: float) -> tuple[Tensor, Tensor]:
        return torch.empty_like(input), torch.empty_like(input)

    def like_saved(grad_output: Tensor, saved: Tensor, *parameters: float) -> Tensor:
        return torch.empty_like(saved)

    def nothing(*arguments: Any, **keywords: Any) -> None:
        return None

    def with_stats(input: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        channel_dim = rest[-1]
        channels = 0 if channel_dim is None else input.shape[channel_dim]
        size = len(_core.activation_statistics) + channels
        return torch.empty_like(input), input.new_empty((size,), dtype=torch.float64)

    fake("", one)
    fake(".out", nothing)
    fake("_", nothing)
    fake("_derivative", one)
    fake("_with_derivative", two)
    fake("_with_derivative.out", nothing)
    fake("_with_stats", with_stats)
    fake("_backward", like_saved)
    fake("_backward.out", nothing)
    fake("_second", like_saved)
    if row.saves_output:
        fake("_backward_of_output", like_saved)
        fake("_backward_of_output.out", nothing)
        fake("_second_of_output", like_saved)


for _row in TABLE.values():
    _register_fakes(_row)


class ActivationStats:
    """What an activation's output looks like: float64 numbers on its device, not yet waited for.

    Non-finite values are counted, and kept out of everything else.

    Attributes:
        values: float64, shape ``[8 + channels]``: the columns of ``ActivationStats.columns``, then
            for each channel how many of its elements are active (not saturated). All are sum- or
            max-reducible, so that shards can be combined.
        numel: elements of the output; ``channels``: how many there are, or 0.

    Example:
        >>> y, stats = gradkern.functional.relu_with_stats(torch.tensor([-1.0, 0.0, 3.0, 5.0]))
        >>> stats.mean.item(), stats.saturated_fraction.item(), stats.abs_max.item()
        (2.0, 0.5, 5.0)
    """

    columns: tuple[str, ...] = _core.activation_statistics

    def __init__(self, values: Tensor, numel: int) -> None:
        self.values = values
        self.numel = numel
        self.channels = values.shape[0] - len(self.columns)

    def __repr__(self) -> str:
        return (
            f"ActivationStats(numel={self.numel}, channels={self.channels}, "
            f"device={self.values.device})"
        )

    def _column(self, name: str) -> Tensor:
        return self.values[self.columns.index(name)]

    @property
    def nonfinite(self) -> Tensor:
        """How many values are NaN or infinite."""
        return self._column("nonfinite")

    @property
    def finite(self) -> Tensor:
        """How many values are finite."""
        return self._column("count") - self.nonfinite

    @property
    def mean(self) -> Tensor:
        """Mean; NaN without a finite value."""
        return self._column("sum") / self.finite

    @property
    def std(self) -> Tensor:
        """Standard deviation, with Bessel's correction; NaN below two finite values."""
        n = self.finite
        # The rounding of the two sums can leave a difference just below 0.
        squares = (self._column("sum_squares") - self._column("sum").square() / n).clamp(min=0)
        return (squares / torch.where(n > 1, n - 1, torch.nan)).sqrt()

    @property
    def abs_max(self) -> Tensor:
        """Largest magnitude; 0 without a finite value."""
        return self._column("abs_max")

    @property
    def zero_fraction(self) -> Tensor:
        """Fraction of values that are 0."""
        return self._column("zeros") / self.finite

    @property
    def saturated_fraction(self) -> Tensor:
        """Fraction of values at which the unit hardly learns (the activation's docstring says)."""
        return self._column("saturated") / self.finite

    @property
    def mean_abs_derivative(self) -> Tensor:
        """Mean of |dy/dx|: how much of a gradient comes through."""
        return self._column("sum_abs_derivative") / self.finite

    @property
    def active_fraction(self) -> Tensor:
        """For each channel the fraction of its elements that are active; shape ``[channels]``."""
        size = self.numel / self.channels if self.channels else math.nan
        return self.values[len(self.columns) :] / size

    @property
    def never_active(self) -> Tensor:
        """For each channel whether none of its elements is active; bool, shape ``[channels]``."""
        return self.values[len(self.columns) :] == 0

    derived: tuple[str, ...] = (
        "mean",
        "std",
        "abs_max",
        "zero_fraction",
        "nonfinite",
        "saturated_fraction",
        "mean_abs_derivative",
    )

    def to_dict(self) -> dict[str, float]:
        """The statistics as Python numbers, with ``never_active``, a count; waits for a GPU once.

        Example:
            >>> x = torch.tensor([[-1.0, 2.0], [-3.0, 4.0]])
            >>> y, stats = gradkern.functional.relu_with_stats(x, channel_dim=1)
            >>> stats.to_dict()["never_active"]
            1.0
        """
        names = (*self.derived, "never_active")
        columns = [
            *(getattr(self, name) for name in self.derived),
            self.never_active.sum().double(),
        ]
        return dict(zip(names, torch.stack(columns).tolist(), strict=True))
