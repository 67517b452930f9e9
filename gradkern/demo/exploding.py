"""A recurrent network that doubles its memory at every step: a gradient that blows up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from gradkern.demo.diagnosis import diagnose
from gradkern.demo.networks import RowReader
from gradkern.demo.section import Section
from gradkern.demo.training import Run, Workload


def _verdict(runs: Sequence[Run]) -> str:
    free, clipped = runs
    how_it_ended = (
        f"after {len(free.losses)} steps the gradient is {free.norms_before[-1]}"
        if free.diverged
        else f"the loss is {free.final_loss:.2g} after {len(free.losses)} steps"
    )
    lost = len(free.now.native_lost)
    overflowed = (
        f" Before that, at step {free.now_step}, native float32 norms print inf for {lost} rows "
        f"whose gradient is finite: {free.now.norms[0]:.1e} for the first."
        if lost
        else ""
    )
    return (
        f"{diagnose(free)}: at the first step the first row gets {free.first.first_to_last:.0f} "
        f"times the gradient of the last row. Without clipping {how_it_ended}, test accuracy "
        f"{free.accuracy:.2f}.{overflowed}\n"
        f"{diagnose(clipped)}: with gradkern.clip_grad_norm_(parameters, "
        f"{clipped.workload.max_norm:g}) a gradient keeps its direction and loses its excess "
        f"length: norms up to {clipped.largest_norm:.0f} are cut to "
        f"{max(clipped.norms_after):.2f}, the loss goes from {clipped.losses[0]:.1f} to "
        f"{clipped.final_loss:.2f}, test accuracy {clipped.accuracy:.2f}."
    )


_WITHOUT_CLIPPING = Workload(
    name="recurrent, not clipped",
    recipe="row by row, recurrent weights 2 I, SGD 0.05, momentum 0.9",
    network=partial(RowReader, gain=2.0),
    optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
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
    workloads=(
        _WITHOUT_CLIPPING,
        replace(_WITHOUT_CLIPPING, name="recurrent, clipped", max_norm=1.0),
    ),
    verdict=_verdict,
)
