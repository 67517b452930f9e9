"""The calls of the clipping family: for each operation both sides, over the same gradients."""

from __future__ import annotations

import torch

import gradkern
from benchmarks import torch_baselines
from benchmarks.bandwidth import read_plainly
from benchmarks.gradients import GradientSet, ShrinkingLimit
from benchmarks.peers import Clip
from benchmarks.rows import Sides, Traffic

native_clip: Clip = torch.nn.utils.clip_grad_norm_


def nothing_to_clip(data: GradientSet, theirs: Clip = native_clip) -> Sides:
    max_norm = 2 * float(gradkern.get_total_norm(data.gradients))
    return Sides(
        ours=lambda: gradkern.clip_grad_norm_(data.parameters, max_norm),
        theirs=lambda: theirs(data.parameters, max_norm),
        traffic=Traffic(read=data.nbytes),
    )


def clipping(data: GradientSet, theirs: Clip = native_clip) -> Sides:
    limit = ShrinkingLimit(data, float(gradkern.get_total_norm(data.gradients)))
    return Sides(
        ours=lambda: gradkern.clip_grad_norm_(data.parameters, limit.next()),
        theirs=lambda: theirs(data.parameters, limit.next()),
        traffic=Traffic(read=data.nbytes, read_write=2 * data.nbytes),
        reset=limit.reset,
        pairs_per_reset=limit.PAIRS_PER_RESET,
    )


def total_norm(data: GradientSet) -> Sides:
    return Sides(
        ours=lambda: gradkern.get_total_norm(data.gradients),
        theirs=lambda: torch.nn.utils.get_total_norm(data.gradients),
        traffic=Traffic(read=data.nbytes),
    )


def total_norm_against_reading(data: GradientSet) -> Sides:
    buffer = torch.ones(-(-data.nbytes // 4), dtype=torch.float32)
    return Sides(
        ours=lambda: gradkern.get_total_norm(data.gradients),
        theirs=lambda: read_plainly(buffer, data.nbytes),
        traffic=Traffic(read=data.nbytes),
    )


def statistics_against_norm(data: GradientSet) -> Sides:
    return Sides(
        ours=lambda: gradkern.tensor_stats(data.gradients),
        theirs=lambda: gradkern.get_total_norm(data.gradients),
        traffic=Traffic(read=data.nbytes),
        comparable=lambda ours, theirs: (ours.sum_squares.sum().sqrt(), theirs),
    )


def statistics_against_torch(data: GradientSet) -> Sides:
    def comparable(
        ours: gradkern.TensorStats, theirs: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        table = torch.stack(theirs).double()
        return ours.norm, table[:, 1].sqrt()

    return Sides(
        ours=lambda: gradkern.tensor_stats(data.gradients),
        theirs=lambda: torch_baselines.seven_statistics(data.gradients),
        traffic=Traffic(read=data.nbytes),
        comparable=comparable,
    )


def clipping_values(data: GradientSet) -> Sides:
    # From 1.8 to 0.9 standard deviations: every call clips values, and never all of them.
    limit = ShrinkingLimit(data, start=2.0, factor=0.9)
    return Sides(
        ours=lambda: gradkern.clip_grad_value_(data.parameters, limit.next()),
        theirs=lambda: torch.nn.utils.clip_grad_value_(data.parameters, limit.next()),
        traffic=Traffic(read_write=2 * data.nbytes),
        reset=limit.reset,
        pairs_per_reset=limit.PAIRS_PER_RESET,
    )


def clipping_per_tensor(data: GradientSet) -> Sides:
    # The smallest norm of all: the limit clips every tensor.
    smallest = min(float(gradient.norm()) for gradient in data.gradients)
    limit = ShrinkingLimit(data, smallest)
    return Sides(
        ours=lambda: gradkern.clip_grad_norm_per_tensor_(data.parameters, limit.next()),
        theirs=lambda: torch_baselines.clip_each_tensor(data.parameters, limit.next()),
        traffic=Traffic(read=data.nbytes, read_write=2 * data.nbytes),
        reset=limit.reset,
        pairs_per_reset=limit.PAIRS_PER_RESET,
        comparable=lambda ours, theirs: (ours, torch.stack(theirs)),
    )


def clipping_adaptively(data: GradientSet) -> Sides:
    limit = ShrinkingLimit(data, start=0.02)
    return Sides(
        ours=lambda: gradkern.adaptive_clip_grad_(data.parameters, limit.next()),
        theirs=lambda: torch_baselines.adaptive_clip(data.parameters, limit.next()),
        traffic=Traffic(read=2 * data.nbytes, read_write=2 * data.nbytes),
        reset=limit.reset,
        pairs_per_reset=limit.PAIRS_PER_RESET,
    )


def norms_per_layer(data: GradientSet) -> Sides:
    return Sides(
        ours=lambda: gradkern.grad_norms(data.module),
        theirs=lambda: torch_baselines.norms_by_name(data.module),
        traffic=Traffic(read=data.nbytes),
        comparable=lambda ours, theirs: (
            torch.stack([ours[name] for name in theirs]),
            torch.stack(list(theirs.values())),
        ),
    )


def deferred_clipping(data: GradientSet) -> Sides:
    limit = ShrinkingLimit(data, float(gradkern.get_total_norm(data.gradients)))
    # One optimizer each, or ours would leave its hook in the other side's step.
    our_optimizer, their_optimizer = (
        torch.optim.AdamW(data.parameters, lr=1e-6, fused=True) for _ in range(2)
    )

    def ours() -> torch.Tensor:
        norm = gradkern.defer_clip_grad_norm_(our_optimizer, limit.next())
        our_optimizer.step()
        return norm

    def theirs() -> torch.Tensor:
        norm = native_clip(data.parameters, limit.next())
        their_optimizer.step()
        return norm

    # The step reads parameter, gradient and two moments, and writes all four back.
    return Sides(
        ours=ours,
        theirs=theirs,
        traffic=Traffic(read=data.nbytes, read_write=8 * data.nbytes),
        reset=limit.reset,
        pairs_per_reset=limit.PAIRS_PER_RESET,
    )
