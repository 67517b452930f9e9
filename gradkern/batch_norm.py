"""The operators of batch normalisation, their fake kernels, and the activations that they fuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradkern import _core
from gradkern import _load as _load  # registers the operators
from gradkern.activations import TABLE, as_number

# The overloads, looked up once: an attribute chain through torch.ops costs .45 us a call.
training = torch.ops.gradkern.batch_norm_training.default
training_with_stats = torch.ops.gradkern.batch_norm_training_with_stats.default
normalise = torch.ops.gradkern.batch_norm_normalise.default
normalise_with_stats = torch.ops.gradkern.batch_norm_normalise_with_stats.default
moments = torch.ops.gradkern.batch_norm_moments.default
sums = torch.ops.gradkern.batch_norm_sums.default
backward = torch.ops.gradkern.batch_norm_backward.default
input_gradient = torch.ops.gradkern.batch_norm_input_gradient.default


@dataclass(frozen=True)
class FusedActivation:
    """What is computed after the normalisation, in the same pass.

    Attributes:
        index: its row in the compiled library.
        name: "identity", or that of a function of :mod:`gradkern.functional`.
        parameter: its parameter; 0 where it has none.
    """

    index: int
    name: str
    parameter: float

    def __call__(self, input: Tensor) -> Tensor:
        """The value by torch's own function."""
        if self.name == "identity":
            return input
        function = getattr(torch.nn.functional, self.name)
        result: Tensor = (
            function(input, self.parameter) if _has_parameter(self.name) else function(input)
        )
        return result


ACTIVATIONS: tuple[str, ...] = tuple(_core.batch_norm_activations)

# The rows of those whose gradients operators can compute from the output, in place of the input.
OF_OUTPUT: dict[str, int] = dict(_core.batch_norm_activations_of_output)


def _has_parameter(name: str) -> bool:
    return name != "identity" and len(TABLE[name].parameters) > 0


_PLAIN = {
    name: FusedActivation(index, name, TABLE[name].defaults()[0] if _has_parameter(name) else 0.0)
    for index, name in enumerate(ACTIVATIONS)
}


def fused_activation(name: str, parameter: float | None = None) -> FusedActivation:
    """The activation of a name.

    Args:
        name: one of ``ACTIVATIONS``.
        parameter: ``negative_slope`` of leaky_relu, ``alpha`` of elu; None: the default.

    Raises:
        TypeError: ``parameter`` is not a number.
        ValueError: there is no such activation, or it has no parameter, or none of that value.

    Example:
        >>> fused_activation("leaky_relu", 0.2).parameter
        0.2
    """
    plain = _PLAIN.get(name)
    if plain is None:
        raise ValueError(f"activation is {name!r}; it must be one of {', '.join(ACTIVATIONS)}")
    if parameter is None:
        return plain
    if not _has_parameter(name):
        raise ValueError(f"activation_parameter is {parameter}; it must be None for {name}")
    return FusedActivation(plain.index, name, as_number(parameter, "activation_parameter"))


def _register_fakes() -> None:
    """What each operator gives for tensors that have no data."""

    def of_channels(input: Tensor) -> Tensor:
        return input.new_empty((input.shape[1],), dtype=torch.float64)

    def of_training(input: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        return torch.empty_like(input), of_channels(input), of_channels(input)

    def of_output(input: Tensor) -> Tensor:
        size = len(_core.activation_statistics) + input.shape[1]
        return input.new_empty((size,), dtype=torch.float64)

    def of_training_with_stats(input: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        return *of_training(input), of_output(input)

    def of_normalise(input: Tensor, *rest: Any) -> Tensor:
        return torch.empty_like(input)

    def of_normalise_with_stats(input: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        return torch.empty_like(input), of_output(input)

    def of_moments(input: Tensor) -> tuple[Tensor, Tensor]:
        return of_channels(input), of_channels(input)

    def of_sums(grad_output: Tensor, input: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        return of_channels(input), of_channels(input)

    def gradients(input: Tensor, residual_grad: bool) -> tuple[Tensor, Tensor]:
        # The operators give an empty tensor for a gradient that nobody asked for.
        of_residual = torch.empty_like(input) if residual_grad else input.new_empty((0,))
        return torch.empty_like(input), of_residual

    def of_backward(
        grad_output: Tensor, input: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return *gradients(input, rest[-1]), of_channels(input), of_channels(input)

    def of_input_gradient(grad_output: Tensor, input: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        return gradients(input, rest[-1])

    for name, fake in (
        ("training", of_training),
        ("training_with_stats", of_training_with_stats),
        ("normalise", of_normalise),
        ("normalise_with_stats", of_normalise_with_stats),
        ("moments", of_moments),
        ("sums", of_sums),
        ("backward", of_backward),
        ("input_gradient", of_input_gradient),
    ):
        torch.library.register_fake(f"gradkern::batch_norm_{name}", fake)


_register_fakes()
