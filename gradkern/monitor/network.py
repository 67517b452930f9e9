"""What a model is made of, as far as it matters to its gradients."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer

from gradkern.monitor.activation_kinds import (
    class_of,
    is_activation,
    is_batch_norm,
    is_normalisation,
)
from gradkern.monitor.parameters import WatchedParameter


@dataclass(frozen=True)
class Network:
    """Facts about a model; arrays have one entry for each watched parameter.

    Attributes:
        names: of the parameters.
        layers: the module that each belongs to.
        matrices: bool: weights of two or more dimensions that transform something, one for each
            layer; embeddings, biases and the gains of norms are none. They make up the depth.
        embeddings: bool.
        fan_in: how many inputs a unit of the weight sums up; NaN for what is no matrix.
        adam_eps: the eps of the Adam-like optimizer that a parameter belongs to; NaN for others.
        activations: how often each activation function occurs, by class name.
        last_activation: the name of the last activation module, empty without one.
        normalisations, batch_norms: how many modules there are.
        recurrent: the names of recurrent modules.
        recurrent_kinds: their class names.
        weight_decay: the largest of the optimizers.
        optimizers: their class names.
    """

    names: tuple[str, ...]
    layers: tuple[str, ...]
    matrices: NDArray[np.bool_]
    embeddings: NDArray[np.bool_]
    fan_in: NDArray[np.float64]
    adam_eps: NDArray[np.float64]
    activations: Counter[str]
    last_activation: str
    normalisations: int
    batch_norms: int
    recurrent: tuple[str, ...]
    recurrent_kinds: tuple[str, ...]
    weight_decay: float
    optimizers: tuple[str, ...]

    @property
    def depth(self) -> int:
        """How many matrices lie one behind the other."""
        return int(self.matrices.sum())

    @classmethod
    def of(
        cls,
        model: nn.Module,
        watched: Sequence[WatchedParameter],
        optimizers: Sequence[Optimizer],
    ) -> Network:
        """Looks at a model and its optimizers."""
        modules = list(model.named_modules())
        activations = [(n, m) for n, m in modules if is_activation(m)]
        recurrent = [(n, m) for n, m in modules if isinstance(m, nn.RNNBase)]
        eps = {
            id(parameter): group["eps"]
            for optimizer in optimizers
            for group in optimizer.param_groups
            if "eps" in group and "betas" in group
            for parameter in group["params"]
        }
        decays = [
            float(group.get("weight_decay", 0.0)) for o in optimizers for group in o.param_groups
        ]
        return cls(
            names=tuple(w.name for w in watched),
            layers=tuple(w.layer for w in watched),
            matrices=np.array([_is_matrix(w) for w in watched], dtype=bool),
            embeddings=np.array([_is_embedding(w.module) for w in watched], dtype=bool),
            fan_in=np.array([_fan_in(w) for w in watched], dtype=float),
            adam_eps=np.array([eps.get(id(w.parameter), math.nan) for w in watched], dtype=float),
            activations=Counter(class_of(m) for _, m in activations),
            last_activation=activations[-1][0] if activations else "",
            normalisations=sum(is_normalisation(m) for _, m in modules),
            batch_norms=sum(is_batch_norm(m) for _, m in modules),
            recurrent=tuple(n for n, _ in recurrent),
            recurrent_kinds=tuple(type(m).__name__ for _, m in recurrent),
            weight_decay=max(decays, default=0.0),
            optimizers=tuple(type(o).__name__ for o in optimizers),
        )


def _is_embedding(module: nn.Module) -> bool:
    return isinstance(module, (nn.Embedding, nn.EmbeddingBag))


def _is_matrix(watched: WatchedParameter) -> bool:
    return (
        watched.parameter.dim() >= 2
        and not _is_embedding(watched.module)
        and not is_normalisation(watched.module)
    )


def _fan_in(watched: WatchedParameter) -> float:
    if not _is_matrix(watched):
        return math.nan
    shape = watched.parameter.shape
    return float(math.prod(shape[1:]))
