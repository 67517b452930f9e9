"""Large results on the CPU lie on huge pages, where the system gives them to who asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import gradkern.functional as gk

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
pytestmark = pytest.mark.skipif(
    not SETTING.exists() or "[never]" in SETTING.read_text(), reason="no huge pages here"
)


def flags_of_mapping(address: int) -> list[str]:
    """What the system knows of the memory at an address (man 5 proc_pid_smaps)."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if "-" in first and not first.endswith(":"):
            begin, end = (int(part, 16) for part in first.split("-"))
            inside = begin <= address < end
        elif inside and first == "VmFlags:":
            return line.split()[1:]
    raise LookupError(f"nothing is mapped at {address:#x}")


@pytest.mark.parametrize(
    "result",
    [
        gk.silu,
        lambda x: gk.softmax(x, -1),
        lambda x: gk.swiglu(x, x),
        lambda x: gk.batch_norm(x, None, None, training=True),
        lambda x: gk.silu(x.T),
        lambda x: gk.silu(x.unfold(1, 2, 1)[..., 0]),
    ],
    ids=["silu", "softmax", "swiglu", "batch_norm", "transposed", "with gaps"],
)
def test_large_results_ask_for_huge_pages(result: Callable[[Tensor], Tensor]) -> None:
    y = result(torch.ones(2**13, 2**10 + 1))
    assert "hg" in flags_of_mapping(y.data_ptr() + y.nbytes // 2)
