"""Thirty sigmoid layers: the gradient that never arrives, and five ways to let it through."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from gradkern.demo.networks import DeepStack, ResidualNetwork
from gradkern.demo.section import Section
from gradkern.demo.training import Workload

_DEPTH = 30

_SICK = Workload(
    name="30 sigmoid layers",
    recipe="width 64, default initialisation, Adam 1e-3",
    network=partial(DeepStack, _DEPTH, nn.Sigmoid),
    optimizer=partial(torch.optim.Adam, lr=1e-3, fused=True),
    epochs=30,
    quick_epochs=1,
)

SECTION = Section(
    title="Vanishing",
    subtitle="30 sigmoid layers",
    lesson=(
        "30 sigmoid layers. The sigmoid's slope is at most 1/4, and every layer multiplies the "
        "gradient by it once more. Adam can't scale it back up: its eps, 1e-8, is larger by far."
    ),
    unit="layer",
    sick=_SICK,
    remedies=(
        replace(
            _SICK,
            name="ReLU, He init",
            network=partial(
                DeepStack, _DEPTH, nn.ReLU, partial(nn.init.kaiming_normal_, nonlinearity="relu")
            ),
        ),
        replace(
            _SICK,
            name="batch norm",
            network=partial(DeepStack, _DEPTH, nn.Sigmoid, nn.init.xavier_normal_, batch_norm=True),
        ),
        replace(
            _SICK,
            name="skip connections",
            network=partial(DeepStack, _DEPTH, nn.Sigmoid, nn.init.xavier_normal_, skip=True),
        ),
        replace(
            _SICK,
            name="residual network",
            network=partial(ResidualNetwork, blocks=5, channels=16),
            epochs=10,
        ),
        replace(
            _SICK,
            name="SELU, LeCun init",
            network=partial(
                DeepStack, _DEPTH, nn.SELU, partial(nn.init.kaiming_normal_, nonlinearity="linear")
            ),
        ),
    ),
)
