"""`python -m benchmarks`: every family."""

from __future__ import annotations

from benchmarks import activations, clip, monitor
from benchmarks.command_line import Family, application

# A new family is one module with rows, and its name here.
FAMILIES: dict[str, Family] = {
    "clip": clip.rows,
    "activations": activations.rows,
    "monitor": monitor.rows,
}

application(FAMILIES, "all")()
