"""One look at a network's gradients, layer by layer, and at its activations, with gradkern."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import linear_regression

import torch
from torch import Tensor

import gradkern
from gradkern.activations import ActivationStats
from gradkern.demo.networks import LayeredNetwork
from gradkern.nn.activation_module import ActivationModule
from gradkern.stats import TensorStats


@dataclass(frozen=True)
class Profile:
    """The gradients of one step, one entry per layer, from the input to the loss."""

    layers: tuple[str, ...]
    depth: int
    """The first `depth` layers are alike; they say how fast the gradient changes with depth."""
    norms: tuple[float, ...]
    """By `gradkern.tensor_stats`: float64, without underflow or overflow."""
    native_norms: tuple[float, ...]
    """PyTorch's, in the gradient's own float32."""
    zero_fractions: tuple[float, ...]
    """The share of entries that are exactly 0: tells a vanished gradient from none at all."""

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, self.norms))

    @property
    def first_to_last(self) -> float:
        """The gradient norm of the first of the layers alike, over that of the last."""
        last = self.norms[self.depth - 1]
        return self.norms[0] / last if last else math.nan

    @property
    def decades_per_layer(self) -> float:
        """The least-squares slope of log10(norm) over the layers alike; < 0: shrinks going back."""
        points = [
            (i, math.log10(norm))
            for i, norm in enumerate(self.norms[: self.depth])
            if 0 < norm < math.inf
        ]
        if len(points) < 2:
            return math.nan
        depths, decades = zip(*points, strict=True)
        return -linear_regression(depths, decades).slope

    @property
    def native_lost(self) -> tuple[str, ...]:
        """The layers whose native norm is 0 or infinite though their gradient is neither."""
        return tuple(
            layer
            for layer, norm, native in zip(self.layers, self.norms, self.native_norms, strict=True)
            if 0 < norm < math.inf and not 0 < native < math.inf
        )


@dataclass(frozen=True)
class Measured:
    """What a :class:`Profile` is made of, as tensors: there is one of every step."""

    layers: tuple[str, ...]
    depth: int
    stats: TensorStats
    native_norms: tuple[Tensor, ...]

    def profile(self) -> Profile:
        return Profile(
            layers=self.layers,
            depth=self.depth,
            norms=tuple(self.stats.norm.tolist()),
            native_norms=tuple(map(float, self.native_norms)),
            zero_fractions=tuple(self.stats.zero_fraction.tolist()),
        )


def measure(network: LayeredNetwork) -> Measured:
    """Measures the gradients that the last backward pass left in the network."""
    named = network.layers()
    gradients = [tensor.grad for tensor in named.values() if tensor.grad is not None]
    return Measured(
        layers=tuple(named),
        depth=network.depth,
        stats=gradkern.tensor_stats(gradients),
        # What torch.nn.utils.clip_grad_norm_ calls.
        native_norms=tuple(torch._foreach_norm(gradients)),
    )


def saturation(network: LayeredNetwork, images: Tensor) -> float:
    """The mean over all passes of gradkern's activations of the share of saturated units.

    NaN for a network without one.
    """
    shares: list[Tensor] = []

    def note(module: ActivationModule, stats: ActivationStats) -> None:
        shares.append(stats.saturated_fraction)

    measured = [m for m in network.modules() if isinstance(m, ActivationModule)]
    training = network.training
    for module in measured:
        module.on_stats = note
    network.eval()
    with torch.no_grad():
        network(images)
    network.train(training)
    for module in measured:
        module.on_stats = None
    return float(torch.stack(shares).mean()) if shares else math.nan
