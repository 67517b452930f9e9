"""The gradients of one step: from the pass that clips them, or from one pass of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradkern.clip import (
    clip_grad_norm_with_stats_,
    clip_grads_with_norm_,
    get_total_norm,
    unrounded_total_norm,
)
from gradkern.deferred_clip import pending_clip
from gradkern.monitor.measuring import measure
from gradkern.monitor.record import (
    INFS,
    LARGEST,
    NANS,
    SMALLEST,
    SQUARES,
    SUM,
    Floats,
    unmeasured,
)


@dataclass(frozen=True)
class _Part:
    """Statistics of some gradients, still on their device; later parts replace earlier ones."""

    parameters: list[int]
    """Their ids."""
    rows: Tensor
    divisor: Tensor | None
    """The loss scale that the gradients still carry, if any."""


@dataclass(frozen=True)
class _Clip:
    """A clipping: the coefficient is ``min(1, limit / (divisor + eps))``."""

    divisor: Tensor
    limit: float
    eps: float

    def coefficient(self, divisor: float) -> float:
        """What the gradients were multiplied with; NaN where the total was NaN."""
        found = self.limit / (divisor + self.eps)
        return found if not found >= 1 else 1.0


@dataclass
class GradientMeasurements:
    """What has been measured of the gradients since the last step."""

    parts: list[_Part] = field(default_factory=list)
    clips: list[_Clip] = field(default_factory=list)
    clipped_later: bool = False
    """Whether something else clips between the measurement and the step."""
    after: Tensor | None = None
    """The total norm after that clipping."""
    skipped: list[Tensor] = field(default_factory=list)
    """`found_inf` of optimizers that take it: above 0, their step did nothing."""
    ids: set[int] = field(default_factory=set)

    def clip(
        self,
        parameters: Sequence[nn.Parameter],
        max_norm: float,
        norm_type: float,
        error_if_nonfinite: bool,
    ) -> Tensor:
        """Clips, and measures the gradients before clipping in the same pass."""
        trained = [p for p in parameters if p.grad is not None]
        grads = [p.grad for p in trained if p.grad is not None]
        if _fit_for_one_pass(grads):
            total, stats = clip_grad_norm_with_stats_(
                trained, max_norm, norm_type, error_if_nonfinite
            )
            self._add([id(p) for p in trained], stats.values, None)
        else:  # sparse gradients, several devices
            total = self._clip_in_two_passes(trained, max_norm, norm_type, error_if_nonfinite)
        # As the coefficient is computed (clip_grad_norm_).
        self.clips.append(_Clip(total.detach().double(), max_norm, 1e-6))
        return total

    def _clip_in_two_passes(
        self,
        trained: Sequence[nn.Parameter],
        max_norm: float,
        norm_type: float,
        error_if_nonfinite: bool,
    ) -> Tensor:
        """As one pass would, also sparse gradients, which native refuses: their values."""
        self.measure(trained, None)
        carriers, gradients = [], []
        for parameter in trained:
            if parameter.grad is not None and parameter.grad.layout == torch.sparse_coo:
                parameter.grad = parameter.grad.coalesce()
            values = _values(parameter.grad)
            carrier = values.detach()
            carrier.grad = values
            carriers.append(carrier)
            gradients.append(values)
        total = get_total_norm(gradients, norm_type, error_if_nonfinite)
        clip_grads_with_norm_(carriers, max_norm, total)
        return total

    def measure(self, parameters: Iterable[nn.Parameter], divisor: Tensor | None) -> None:
        """Measures gradients as they are; a loss scale that they carry is divided out later."""
        trained = [p for p in parameters if p.grad is not None]
        for indices, rows in measure([_values(p.grad) for p in trained if p.grad is not None]):
            self._add([id(trained[i]) for i in indices], rows, divisor)

    def measure_rest(self, parameters: Iterable[nn.Parameter]) -> None:
        """Measures the gradients that haven't been measured in this step."""
        self.measure([p for p in parameters if id(p) not in self.ids], None)

    def measure_before_step(self, optimizer: Optimizer, watched: Iterable[nn.Parameter]) -> None:
        """Measures what an optimizer is about to use, unless it has been measured."""
        rest = [p for p in watched if id(p) not in self.ids]
        self.measure(rest, self._scale_of(optimizer) if rest else None)
        found_inf = vars(optimizer).get("found_inf")
        if isinstance(found_inf, Tensor):
            self.skipped.append(found_inf.detach().double().reshape(()))

    def _scale_of(self, optimizer: Optimizer) -> Tensor | None:
        """The loss scale that gradients carry into a fused step, which divides by it."""
        scale = vars(optimizer).get("grad_scale")
        if not isinstance(scale, Tensor):
            return None
        deferred = pending_clip(optimizer)
        if deferred is None:
            return scale
        # A deferred clip is a part of that scale.
        divisor = deferred.detach().double().reshape(())
        self.clips.append(_Clip(divisor, 1.0, 0.0))
        return scale.detach().double().reshape(()) / divisor

    def measure_total_after(self, parameters: Iterable[nn.Parameter]) -> None:
        """Measures the total norm that someone else's clipping has left."""
        grads = [p.grad for p in parameters if p.grad is not None]
        if grads:
            self.after = unrounded_total_norm(grads, 2.0).reshape(())

    def _add(self, ids: list[int], rows: Tensor, divisor: Tensor | None) -> None:
        scale = None if divisor is None else divisor.detach().double().reshape(())
        self.parts.append(_Part(ids, rows, scale))
        self.ids.update(ids)

    def tensors(self) -> list[Tensor]:
        """Everything that must travel to the host, in the order that :meth:`read` expects."""
        listed = [part.rows for part in self.parts]
        listed += [part.divisor for part in self.parts if part.divisor is not None]
        listed += [clip.divisor.reshape(()) for clip in self.clips]
        listed += self.skipped
        if self.after is not None:
            listed.append(self.after)
        return listed

    def read(self, arrays: Sequence[Floats], index: dict[int, int], count: int) -> GradientReading:
        """Puts together what has arrived: rows in the order that `index` gives."""
        queue = list(arrays)
        rows = [queue.pop(0) for _ in self.parts]
        divisors = [1.0 if p.divisor is None else float(queue.pop(0)) for p in self.parts]
        totals = [float(queue.pop(0)) for _ in self.clips]
        skipped = [float(queue.pop(0)) for _ in self.skipped]
        values = unmeasured(count)
        squares: dict[int, float] = {}
        for part, part_rows, divisor in zip(self.parts, rows, divisors, strict=True):
            unscaled = _divided(part_rows, divisor)
            for parameter, row in zip(part.parameters, unscaled, strict=True):
                nonfinite = np.nan if row[NANS] > 0 else np.inf if row[INFS] > 0 else row[SQUARES]
                squares[parameter] = float(nonfinite)
                if parameter in index:
                    values[index[parameter]] = row
        before = float(np.sqrt(sum(squares.values()))) if squares else float("nan")
        coefficient = 1.0
        for clip, total in zip(self.clips, totals, strict=True):
            found = clip.coefficient(total)
            coefficient = coefficient if coefficient < found else found
        after = before * coefficient
        if self.after is not None:
            after = float(queue.pop(0))
            coefficient = after / before if before else 1.0
        did_step = not skipped or min(skipped) == 0
        return GradientReading(values, before, after, coefficient, did_step)


@dataclass(frozen=True)
class GradientReading:
    """The gradients of a step, on the host."""

    values: Floats
    total_before: float
    total_after: float
    coefficient: float
    did_step: bool


def _divided(rows: Floats, divisor: float) -> Floats:
    if divisor == 1.0:
        return rows
    scale = np.ones(rows.shape[1])
    scale[[SUM, LARGEST, SMALLEST]] = divisor  # the others are counts
    scale[SQUARES] = divisor**2
    return rows / scale


def _values(gradient: Tensor | None) -> Tensor:
    """What a gradient holds: of a sparse one the values that it has."""
    assert gradient is not None
    if gradient.layout == torch.sparse_coo:
        return gradient.coalesce().values()
    return gradient


def _fit_for_one_pass(grads: Sequence[Tensor]) -> bool:
    return all(
        type(g) is Tensor and g.layout == torch.strided and g.device == grads[0].device
        for g in grads
    )
