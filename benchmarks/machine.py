"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import re
import resource
from pathlib import Path
from typing import Any

import torch

import gradkern


def cpu_model() -> str:
    """The processor's name, with what the kernel can tell."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1) if found else platform.processor() or platform.machine()


def last_level_cache_bytes() -> int:
    """Size of the largest cache of CPU 0, or 32 MiB where the kernel does not tell."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    sizes = [32 << 20]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        found = re.fullmatch(r"(\d+)([KMG])", path.read_text().strip())
        if found:
            sizes.append(int(found.group(1)) * units[found.group(2)])
    return max(sizes[1:], default=sizes[0])


def cache_bytes(device: torch.device) -> int:
    """The largest cache of `device`: sets of tensors near its size do not measure memory."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    return last_level_cache_bytes()


def peak_memory_bytes() -> int:
    """The most memory this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def describe() -> dict[str, Any]:
    """Processor, instruction set, threads, versions, memory held so far; JSON-ready."""
    build = gradkern.build_info()
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "cache_bytes": last_level_cache_bytes(),
        "cpu_isa": build["cpu_isa"],
        "native_cpu_isa": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gradkern": build["version"],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "peak_memory_bytes": peak_memory_bytes(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
