"""Ten ReLU layers with He initialisation: a gradient that arrives."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from gradkern.demo.diagnosis import diagnose
from gradkern.demo.networks import DeepStack
from gradkern.demo.section import Section
from gradkern.demo.training import Run, Workload


def _verdict(runs: Sequence[Run]) -> str:
    (run,) = runs
    return (
        f"{diagnose(run)}: the first layer gets {run.now.first_to_last:.2f} times what the last "
        f"hidden layer gets, and all of them learn: test accuracy {run.accuracy:.2f}."
    )


SECTION = Section(
    title="Healthy",
    subtitle="10 ReLU layers, He init",
    lesson=(
        "10 ReLU layers whose weights start with variance 2/fan_in (He et al. 2015), which keeps "
        "the size of the signal from layer to layer. The same data, the same optimizer."
    ),
    unit="layer",
    workloads=(
        Workload(
            name="10 ReLU layers",
            recipe="width 64, He initialisation, Adam 1e-3",
            network=partial(
                DeepStack, 10, nn.ReLU, partial(nn.init.kaiming_normal_, nonlinearity="relu")
            ),
            optimizer=partial(torch.optim.Adam, lr=1e-3),
            epochs=30,
            quick_epochs=2,
        ),
    ),
    verdict=_verdict,
)
