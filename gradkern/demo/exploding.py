"""A recurrent network that doubles its memory at every step: a gradient that blows up."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from gradkern.demo.networks import RowReader
from gradkern.demo.section import Section
from gradkern.demo.training import Workload

_WITHOUT_CLIPPING = Workload(
    name="recurrent, not clipped",
    recipe="row by row, recurrent weights 2 I, SGD 0.05, momentum 0.9",
    network=partial(RowReader, gain=2.0),
    optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9, fused=True),
    epochs=30,
    quick_epochs=6,
)

SECTION = Section(
    title="Exploding",
    subtitle="recurrent, doubling",
    lesson=(
        "A recurrent network reads the image row by row and starts by doubling what it remembers "
        "at every row, so the gradient doubles at every row on its way back."
    ),
    unit="row",
    sick=_WITHOUT_CLIPPING,
    remedies=(
        replace(_WITHOUT_CLIPPING, name="recurrent, clipped", max_norm=1.0),
        replace(
            _WITHOUT_CLIPPING,
            name="recurrent weights I",
            network=partial(RowReader, gain=1.0),
            max_norm=1.0,
        ),
    ),
)
