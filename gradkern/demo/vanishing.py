"""Thirty sigmoid layers: the gradient that never arrives."""

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
    profile = run.now
    text = (
        f"{diagnose(run)}: on its way back the norm falls {-profile.decades_per_layer:.2f} decades "
        f"per layer, so the first layer gets {profile.first_to_last:.1e} of what the last hidden "
        f"layer gets. The layers near the input cannot learn, and nothing useful reaches the "
        f"others: test accuracy {run.accuracy:.2f}, chance is 0.10."
    )
    if profile.native_lost:
        zeros = profile.zero_fractions[0]
        text += (
            f" Native float32 norms print 0 for {len(profile.native_lost)} layers, as if they had "
            f"no gradient, yet {1 - zeros:.0%} of the first layer's entries are not zero: vanished "
            "is not the same as absent."
        )
    return text


SECTION = Section(
    title="Vanishing",
    subtitle="30 sigmoid layers",
    lesson=(
        "30 sigmoid layers. The sigmoid's slope is at most 1/4, and every layer multiplies the "
        "gradient by it once more. Adam can't scale it back up: its eps, 1e-8, is larger by far."
    ),
    unit="layer",
    workloads=(
        Workload(
            name="30 sigmoid layers",
            recipe="width 64, default initialisation, Adam 1e-3",
            network=partial(DeepStack, 30, nn.Sigmoid),
            optimizer=partial(torch.optim.Adam, lr=1e-3),
            epochs=30,
            quick_epochs=1,
        ),
    ),
    verdict=_verdict,
)
