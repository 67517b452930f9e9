"""`python -m benchmarks`: every family."""

from __future__ import annotations

from benchmarks import clip
from benchmarks.command_line import application

# A new family is one module with rows, and its name here.
FAMILIES = {"clip": clip.rows}

application(FAMILIES, "all")()
