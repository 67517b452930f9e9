"""`python -m benchmarks`: every family."""

from __future__ import annotations

from benchmarks import activations, batch_norm, call_overhead, clip, gated, monitor, softmax
from benchmarks.command_line import Family, application

# A new family is one module with rows, and its name here.
FAMILIES: dict[str, Family] = {
    "clip": clip.rows,
    "activations": activations.rows,
    "call_overhead": call_overhead.rows,
    "gated": gated.rows,
    "softmax": softmax.rows,
    "batch_norm": batch_norm.rows,
    "monitor": monitor.rows,
}

application(FAMILIES, "all")()
