"""The same thirty layers with other activations, each with the initialisation that fits it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

import gradkern
from gradkern.demo.networks import DeepStack
from gradkern.demo.training import Workload

DEPTH = 30

LESSON = (
    "The same 30 layers with other activations, each with the initialisation that fits it. "
    '"Saturated": the share of units that hardly pass a gradient on (for those of the ReLU family: '
    "the negative side), at the first step; from the pass that computes the activation."
)


@dataclass(frozen=True)
class Candidate:
    """An activation and its initialisation.

    Attributes:
        scheme: who the initialisation is named after.
        workload: the network and how it is trained.
    """

    scheme: str
    workload: Workload


def _initialised(name: str, make: Callable[[], nn.Module]) -> DeepStack:
    stack = DeepStack(DEPTH, make)
    gradkern.init.init_for_activation_(stack.hidden, name)
    return stack


def _candidate(shown: str, name: str, scheme: str, make: Callable[[], nn.Module]) -> Candidate:
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = partial(
        torch.optim.Adam, lr=1e-3, fused=True
    )
    recipe = f"width 64, {scheme} initialisation, Adam 1e-3"
    network = partial(_initialised, name, make)
    return Candidate(scheme, Workload(shown, recipe, network, optimizer, epochs=10, quick_epochs=1))


CANDIDATES: tuple[Candidate, ...] = (
    _candidate("sigmoid", "sigmoid", "Glorot", gradkern.nn.Sigmoid),
    _candidate("tanh", "tanh", "Glorot", gradkern.nn.Tanh),
    _candidate("ReLU", "relu", "He", gradkern.nn.ReLU),
    _candidate("leaky ReLU", "leaky_relu", "He", gradkern.nn.LeakyReLU),
    _candidate("RReLU", "rrelu", "He", gradkern.nn.RReLU),
    _candidate("PReLU", "prelu", "He", gradkern.nn.PReLU),
    _candidate("ELU", "elu", "He", gradkern.nn.ELU),
    _candidate("SELU", "selu", "LeCun", gradkern.nn.SELU),
)
