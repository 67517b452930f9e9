"""How gradients, outputs and updates change from layer to layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gradkern.monitor.network import Network
from gradkern.monitor.record import Floats, StepRecord

# Of two layers one can't say that anything changes layer by layer.
LEAST_LAYERS = 3


@dataclass(frozen=True)
class DepthProfile:
    """Positive numbers, one for each layer from the input to the loss.

    Attributes:
        layers: their names.
        values: norms, or deviations; shape ``[n]``.
    """

    layers: tuple[str, ...]
    values: Floats

    @property
    def first_to_last(self) -> float:
        """The first layer's value over the last one's; NaN below three layers or at 0."""
        if len(self.values) < LEAST_LAYERS or not self.values[-1] > 0:
            return float("nan")
        return float(self.values[0] / self.values[-1])

    @cached_property
    def decades_per_layer(self) -> float:
        """The least-squares slope of log10 over depth, on the way back: below 0 it falls."""
        known = np.isfinite(self.values) & (self.values > 0)
        if known.sum() < LEAST_LAYERS:
            return float("nan")
        depth = np.arange(len(self.values))[known]
        return float(-np.polyfit(depth, np.log10(self.values[known]), 1)[0])

    def below(self, share: float) -> tuple[str, ...]:
        """The layers whose value is below that share of the last one's."""
        limit = share * self.values[-1]
        return tuple(n for n, v in zip(self.layers, self.values, strict=True) if v < limit)

    def above(self, share: float) -> tuple[str, ...]:
        """The layers whose value is above that share of the last one's."""
        limit = share * self.values[-1]
        return tuple(n for n, v in zip(self.layers, self.values, strict=True) if v > limit)


def gradient_profile(record: StepRecord, network: Network) -> DepthProfile:
    """The norms of the weights' gradients; without what has none."""
    return _of_matrices(record.gradients.norm, record, network)


def update_profile(record: StepRecord, network: Network) -> DepthProfile:
    """std(dw)/std(w) of the weights."""
    return _of_matrices(record.update_ratio, record, network)


def _of_matrices(values: Floats, record: StepRecord, network: Network) -> DepthProfile:
    if network.names != record.gradients.names:
        return DepthProfile((), np.empty(0))
    chosen = network.matrices & np.isfinite(values)
    layers = tuple(n for n, c in zip(network.layers, chosen, strict=True) if c)
    return DepthProfile(layers, values[chosen])


def output_profile(record: StepRecord) -> DepthProfile:
    """The standard deviations of the outputs of the activation function that occurs most.

    One kind only: a GELU's output differs from a layer norm's, whatever the depth.
    """
    outputs = record.activations
    if not len(outputs):
        return DepthProfile((), np.empty(0))
    kinds = [kind for kind in outputs.kinds if "Norm" not in kind]
    if not kinds:
        return DepthProfile((), np.empty(0))
    commonest = max(sorted(set(kinds)), key=kinds.count)
    chosen = np.array([kind == commonest for kind in outputs.kinds])
    table = outputs.stats.only(chosen)
    return DepthProfile(table.names, table.std)
