"""Ten healthy layers and a learning rate of 1: updates that blow the network up."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from gradkern.demo.networks import DeepStack
from gradkern.demo.section import Section
from gradkern.demo.training import Workload

_he = partial(nn.init.kaiming_normal_, nonlinearity="relu")

_SICK = Workload(
    name="SGD, learning rate 1",
    recipe="10 ReLU layers, He initialisation, SGD 1",
    network=partial(DeepStack, 10, nn.ReLU, _he),
    optimizer=partial(torch.optim.SGD, lr=1.0, fused=True),
    epochs=30,
    quick_epochs=1,
)

SECTION = Section(
    title="Diverging",
    subtitle="10 ReLU layers, learning rate 1",
    lesson=(
        "10 ReLU layers with He initialisation: the gradient arrives in all of them. But a step "
        "changes a weight by more than a tenth of its size."
    ),
    unit="layer",
    sick=_SICK,
    remedies=(
        replace(
            _SICK,
            name="learning rate 0.05",
            optimizer=partial(torch.optim.SGD, lr=0.05, fused=True),
        ),
        replace(
            _SICK,
            name="batch norm, lr 1",
            network=partial(DeepStack, 10, nn.ReLU, _he, batch_norm=True),
        ),
    ),
)
