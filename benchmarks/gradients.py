"""Parameters with gradients to clip and measure, and limits that keep every call clipping."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.workloads import Shapes, element_count


class GradientSet:
    """A module whose parameters have gradients: N(0, 1), of which a share is zero.

    Parameters are N(0, 0.02), as initialised models' are.
    """

    def __init__(
        self, shapes: Shapes, dtype: torch.dtype, device: torch.device, zero_fraction: float
    ) -> None:
        generator = torch.Generator(device).manual_seed(2013)
        self.module = torch.nn.Module()
        for index, shape in enumerate(shapes):
            values = torch.empty(shape, dtype=dtype, device=device)
            parameter = torch.nn.Parameter(values.normal_(0, 0.02, generator=generator))
            gradient = torch.empty_like(values).normal_(generator=generator)
            if zero_fraction:
                # Scattered at random: whole rows of zeros would be easier to predict.
                mask = torch.empty(shape, device=device).uniform_(generator=generator)
                gradient.masked_fill_(mask < zero_fraction, 0)
            parameter.grad = gradient
            self.module.register_parameter(f"tensor_{index:04d}", parameter)
        self.parameters = list(self.module.parameters())
        self.gradients = [p.grad for p in self.parameters if p.grad is not None]
        self._pristine = [gradient.clone() for gradient in self.gradients]

    @property
    def nbytes(self) -> int:
        """Bytes of all gradients together."""
        return sum(gradient.nbytes for gradient in self.gradients)

    @torch.no_grad()
    def restore(self) -> None:
        torch._foreach_copy_(self.gradients, self._pristine)

    def sample(self) -> torch.Tensor:
        return torch.cat([gradient.flatten()[:64].double() for gradient in self.gradients])


@dataclass(frozen=True)
class GradientWorkload:
    """A named `GradientSet` to be."""

    model: str
    shapes: Shapes
    dtype: torch.dtype
    device: torch.device
    zero_fraction: float = 0.0

    @property
    def name(self) -> str:
        zeros = f", {self.zero_fraction:.0%} zeros" if self.zero_fraction else ""
        return self.model + zeros

    @property
    def tensors(self) -> int:
        return len(self.shapes)

    @property
    def elements(self) -> int:
        return element_count(self.shapes)

    def make(self) -> GradientSet:
        return GradientSet(self.shapes, self.dtype, self.device, self.zero_fraction)


class ShrinkingLimit:
    """A clipping limit that shrinks at every use, so that every timed call really clips.

    With a fixed limit only the first call would clip. Both sides of a pair draw from the same
    limit, and after `USES` of them the gradients and the limit are put back, untimed: eight
    halvings stay far away from subnormal numbers, whose arithmetic is slow.

    Args:
        data: the gradients that the calls clip.
        start: the limit before it first shrinks.
        factor: what every use multiplies it by.
    """

    USES = 8
    PAIRS_PER_RESET = USES // 2

    def __init__(self, data: GradientSet, start: float, factor: float = 0.5) -> None:
        self._data = data
        self._start = start
        self._factor = factor
        self._uses = 0

    def next(self) -> float:
        """The limit of this call."""
        self._uses += 1
        return self._start * self._factor**self._uses

    def reset(self) -> None:
        """Puts the gradients and the limit back."""
        self._data.restore()
        self._uses = 0
