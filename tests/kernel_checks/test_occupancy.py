"""Occupancy, against NVIDIA's occupancy calculator."""

from __future__ import annotations

import pytest
from occupancy import A100, H100, blocks_per_sm, occupancy


@pytest.mark.parametrize(
    ("threads", "registers", "shared_bytes", "blocks"),
    [
        (256, 32, 0, 8),  # by warps
        (256, 42, 0, 5),  # by registers: 48 for each thread, 42 warps
        (256, 64, 0, 4),
        (256, 65, 0, 3),
        (256, 255, 0, 1),
        (32, 16, 0, 32),  # by blocks
        (256, 32, 40 << 10, 4),  # by shared memory: 41 of 164 KiB
        (256, 32, (40 << 10) + 1, 3),
        (1024, 64, 0, 1),
        (100, 32, 0, 16),  # 4 warps
    ],
)
def test_blocks_on_an_a100(threads: int, registers: int, shared_bytes: int, blocks: int) -> None:
    assert blocks_per_sm(A100, threads, registers, shared_bytes) == blocks


def test_an_h100_has_more_shared_memory() -> None:
    assert blocks_per_sm(H100, 256, 32, 40 << 10) == 5


def test_share_of_warps() -> None:
    assert occupancy(A100, 256, 5) == 40 / 64
