"""Nothing grows with the number of steps. `benchmarks/monitor_memory.py` takes 100,000 of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
# Last: the package under test must stay the installed one.
sys.path.append(str(ROOT))

pytest.importorskip("typer")

from benchmarks import monitor_memory  # noqa: E402
from benchmarks.monitor import rows  # noqa: E402
from benchmarks.trainings import character_training, image_training  # noqa: E402

CPU = torch.device("cpu")


def test_memory_does_not_grow_beyond_max_history() -> None:
    # The windows that rules look back on are full after 256 steps.
    marks = monitor_memory.growth(1200, marks=4, max_history=40)[1:]
    assert max(m.objects for m in marks) < marks[0].objects + 200, marks
    assert max(m.state for m in marks) < 1.3 * marks[0].state, marks


def test_the_benchmarks_models_are_of_the_size_that_they_say() -> None:
    assert character_training(CPU, False).elements == 10_795_136
    assert image_training(CPU, False).elements == 11_173_962


def test_rows_of_the_benchmark() -> None:
    titles = [row.title for row in rows(CPU, quick=False)]
    assert sum("gradkern.Monitor" in title for title in titles) == 3
    for row in rows(CPU, quick=True):
        data = row.workload.make()
        sides = row.prepare(data)
        ours, theirs = sides.ours(), sides.theirs()
        torch.testing.assert_close(ours, theirs)
