"""Gradient norms, statistics and clipping. `python -m benchmarks.clip` runs these rows alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks import clip_sides
from benchmarks.gradients import GradientSet, GradientWorkload
from benchmarks.peers import importable_peers
from benchmarks.rows import Bar, Row, Sides
from benchmarks.workloads import (
    GPT2_SMALL,
    RESNET50,
    equal_shapes,
    gpt2_shapes,
    resnet_bottleneck_shapes,
)

NOTHING = "clip_grad_norm_, nothing to clip"
CLIPPING = "clip_grad_norm_, clipping"
NORM = "get_total_norm"
STATISTICS = "tensor_stats"
NATIVE = "native"
OUR_NORM = "our norm alone"
SEVEN = "7 by torch"
READING = "plain read loop"

GPT2, SPARSE_GPT2 = "GPT-2 small", "GPT-2 small, 60% zeros"
RESNET, MANY, FEW = "ResNet-50", "2000 x 256", "10 x 64"

# The project's speed bars. They are for the CPU; rows on CUDA are not judged.
BARS = {
    (GPT2, torch.float32, NOTHING, NATIVE): Bar("speedup", 2.5),
    (GPT2, torch.float32, CLIPPING, NATIVE): Bar("speedup", 1.4),
    # Paired: the bandwidth of a shared machine drifts, by half within one run on one of them.
    (GPT2, torch.float32, NORM, READING): Bar("speedup", 0.9),
    (GPT2, torch.bfloat16, NOTHING, NATIVE): Bar("speedup", 3),
    (GPT2, torch.bfloat16, CLIPPING, NATIVE): Bar("speedup", 3),
    (RESNET, torch.float32, NOTHING, NATIVE): Bar("speedup", 3),
    (RESNET, torch.float32, CLIPPING, NATIVE): Bar("speedup", 1.5),
    (MANY, torch.float32, NOTHING, NATIVE): Bar("speedup", 10),
    (MANY, torch.float32, CLIPPING, NATIVE): Bar("speedup", 10),
    (FEW, torch.float32, NOTHING, NATIVE): Bar("speedup", 1),
    (FEW, torch.float32, CLIPPING, NATIVE): Bar("speedup", 1),
    (GPT2, torch.float32, STATISTICS, OUR_NORM): Bar("time", 1.2),
    (SPARSE_GPT2, torch.float32, STATISTICS, OUR_NORM): Bar("time", 1.5),
    (GPT2, torch.float32, STATISTICS, SEVEN): Bar("speedup", 30),
}

Rows = Iterator[Row[GradientSet]]


def row(
    workload: GradientWorkload,
    operation: str,
    against: str,
    prepare: Callable[[GradientSet], Sides],
) -> Row[GradientSet]:
    """A row with its bar, if it has one."""
    key = workload.name, workload.dtype, operation, against
    bar = BARS.get(key) if workload.device.type == "cpu" else None
    return Row(operation, against, workload, prepare, bar)


def norm_rows(workload: GradientWorkload) -> Rows:
    """clip_grad_norm_ and the norm alone; on CUDA against the installed peers too."""
    yield row(workload, NOTHING, NATIVE, clip_sides.nothing_to_clip)
    yield row(workload, CLIPPING, NATIVE, clip_sides.clipping)
    yield row(workload, NORM, NATIVE, clip_sides.total_norm)
    if workload.device.type == "cuda":
        for name, peer in importable_peers().items():
            yield row(workload, NOTHING, name, partial(clip_sides.nothing_to_clip, theirs=peer))
            yield row(workload, CLIPPING, name, partial(clip_sides.clipping, theirs=peer))


def statistics_rows(workload: GradientWorkload) -> Rows:
    """All eight statistics against our own norm, and against seven of them by torch."""
    yield row(workload, STATISTICS, OUR_NORM, clip_sides.statistics_against_norm)
    yield row(workload, STATISTICS, SEVEN, clip_sides.statistics_against_torch)


def per_tensor_rows(workload: GradientWorkload) -> Rows:
    """What treats every tensor or every value for itself."""
    yield row(workload, "clip_grad_value_", NATIVE, clip_sides.clipping_values)
    yield row(workload, "clip_grad_norm_per_tensor_", "a loop", clip_sides.clipping_per_tensor)
    yield row(workload, "adaptive_clip_grad_", "timm's formula", clip_sides.clipping_adaptively)
    yield row(workload, "grad_norms", "loop of .norm()", clip_sides.norms_per_layer)


def rows(device: torch.device, quick: bool) -> Rows:
    """The family's rows.

    Args:
        device: where the gradients are.
        quick: tiny stand-ins for the workloads.

    Yields:
        Rows, those of one workload together.
    """
    shapes = {
        GPT2: gpt2_shapes(32, 12, 101, 16) if quick else GPT2_SMALL,
        RESNET: resnet_bottleneck_shapes(4, classes=10) if quick else RESNET50,
        MANY: equal_shapes(100, 16) if quick else equal_shapes(2000, 256),
        FEW: equal_shapes(10, 64),
    }

    def workload(model: str, dtype: torch.dtype, zero_fraction: float = 0.0) -> GradientWorkload:
        return GradientWorkload(model, shapes[model], dtype, device, zero_fraction)

    gpt2 = workload(GPT2, torch.float32)
    yield from norm_rows(gpt2)
    if device.type == "cpu":
        yield row(gpt2, NORM, READING, clip_sides.total_norm_against_reading)
    yield from statistics_rows(gpt2)
    yield from per_tensor_rows(gpt2)
    yield row(gpt2, "defer_clip_grad_norm_ + AdamW", "clip + AdamW", clip_sides.deferred_clipping)

    sparse_gpt2 = workload(GPT2, torch.float32, zero_fraction=0.6)
    yield row(sparse_gpt2, STATISTICS, OUR_NORM, clip_sides.statistics_against_norm)

    gpt2_in_bfloat16 = workload(GPT2, torch.bfloat16)
    yield from norm_rows(gpt2_in_bfloat16)
    yield row(gpt2_in_bfloat16, STATISTICS, OUR_NORM, clip_sides.statistics_against_norm)

    for model in (RESNET, MANY, FEW):
        yield from norm_rows(workload(model, torch.float32))
        yield from statistics_rows(workload(model, torch.float32))
        yield from per_tensor_rows(workload(model, torch.float32))
        yield from norm_rows(workload(model, torch.bfloat16))


if __name__ == "__main__":
    from benchmarks.command_line import application

    application({"clip": rows}, "clip")()
