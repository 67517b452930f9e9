"""Initial weights that fit an activation: LeCun's, and the choice of the scheme by the activation.

Glorot's and He's are :mod:`torch.nn.init`'s own. Each scheme keeps the variance of the activations
the same from layer to layer, for the activations that it was made for; weights too small let
gradients vanish, weights too large let them explode.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradkern.activations import activation

__all__ = ["init_for_activation_", "lecun_normal_", "lecun_uniform_"]

# Activations that are 0 for half of their inputs, or nearly: the variance is halved.
_RECTIFIERS = {
    "relu", "leaky_relu", "rrelu", "prelu", "elu", "celu", "gelu", "gelu_tanh", "silu", "mish",
    "softplus", "relu6", "hardswish", "squared_relu",
}  # fmt: skip


def _fan_in(tensor: Tensor) -> int:
    if tensor.dim() < 2:
        raise ValueError(
            f"tensor has {tensor.dim()} dimensions; it must have at least 2 to have a fan-in"
        )
    fan_in, _ = torch.nn.init._calculate_fan_in_and_fan_out(tensor)
    return int(fan_in)


@torch.no_grad()
def lecun_normal_(tensor: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fills a weight with a normal distribution of variance 1 / fan_in.

    Args:
        tensor: at least 2-dimensional, ``[out, in, ...]``.
        generator: where the random numbers come from.

    Returns:
        ``tensor``.

    Raises:
        ValueError: the tensor has fewer than 2 dimensions.

    Source:
        LeCun, Bottou, Orr, Mueller, "Efficient BackProp", 1998; the initialisation of SELU networks
        (Klambauer et al. 2017).

    Example:
        >>> weight = gradkern.init.lecun_normal_(torch.empty(256, 100))
        >>> 0.08 < weight.std().item() < 0.12
        True
    """
    return tensor.normal_(0, 1 / math.sqrt(_fan_in(tensor)), generator=generator)


@torch.no_grad()
def lecun_uniform_(tensor: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fills a weight with a uniform distribution of variance 1 / fan_in.

    Args:
        tensor: at least 2-dimensional, ``[out, in, ...]``.
        generator: where the random numbers come from.

    Returns:
        ``tensor``.

    Raises:
        ValueError: the tensor has fewer than 2 dimensions.

    Source:
        LeCun, Bottou, Orr, Mueller, "Efficient BackProp", 1998.

    Example:
        >>> weight = gradkern.init.lecun_uniform_(torch.empty(8, 300))
        >>> weight.abs().max().item() <= 0.1
        True
    """
    bound = math.sqrt(3 / _fan_in(tensor))
    return tensor.uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def init_for_activation_(module: torch.nn.Module, name: str) -> torch.nn.Module:
    """Initialises every linear and convolutional layer of a module for an activation.

    SELU gets LeCun's normal distribution, what is 0 for negative inputs (or nearly) He's, and what
    is symmetric or saturates Glorot's. Biases become 0.

    Args:
        module: a layer, or a model with layers in it.
        name: an activation of ``gradkern.activations.TABLE``, "rrelu" or "prelu".

    Returns:
        ``module``.

    Raises:
        ValueError: there is no such activation.

    Source:
        Glorot, Bengio, 2010; He, Zhang, Ren, Sun, 2015; Klambauer et al., 2017.

    Example:
        >>> layer = gradkern.init.init_for_activation_(torch.nn.Linear(200, 400), "relu")
        >>> 0.09 < layer.weight.std().item() < 0.11, layer.bias.abs().max().item()
        (True, 0.0)
    """
    if name not in _RECTIFIERS:
        activation(name)  # raises if there is no such activation
    convolutions = torch.nn.modules.conv._ConvNd
    for layer in module.modules():
        if not isinstance(layer, (torch.nn.Linear, convolutions)):
            continue
        if name == "selu":
            lecun_normal_(layer.weight)
        elif name in _RECTIFIERS:
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        else:
            torch.nn.init.xavier_normal_(layer.weight)
        if layer.bias is not None:
            layer.bias.zero_()
    return module
