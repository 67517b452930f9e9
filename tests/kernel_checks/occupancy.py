"""How many blocks of a kernel an SM has room for.

CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"; registers are handed
to warps by 256, warps to an SM's four partitions one by one, shared memory by 128 bytes.
"""

from __future__ import annotations

import dataclasses

_REGISTER_UNIT = 256
_SHARED_UNIT = 128
_SHARED_OF_SYSTEM = 1024  # of each block
_PARTITIONS = 4
_WARP = 32


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU, with the specifications of its architecture.

    Args:
        bandwidth: of its memory, in bytes per second, from its data sheet.
    """

    name: str
    arch: str
    shared_bytes: int
    bandwidth: float
    warps: int = 64
    blocks: int = 32
    registers: int = 65536


A100 = Gpu("A100", "sm_80", 164 << 10, 2.039e12)  # SXM, 80 GB
H100 = Gpu("H100", "sm_90", 228 << 10, 3.35e12)  # SXM
B200 = Gpu("B200", "sm_100", 228 << 10, 8.0e12)
GPUS = (A100, H100, B200)


def blocks_per_sm(gpu: Gpu, threads: int, registers: int, shared_bytes: int) -> int:
    """Blocks of so many threads, registers for each, and bytes that fit on an SM together."""
    warps = -(-threads // _WARP)
    per_warp = _round_up(max(registers, 1) * _WARP, _REGISTER_UNIT)
    warps_with_registers = gpu.registers // _PARTITIONS // per_warp * _PARTITIONS
    shared = _round_up(shared_bytes + _SHARED_OF_SYSTEM, _SHARED_UNIT)
    return min(
        gpu.blocks, gpu.warps // warps, warps_with_registers // warps, gpu.shared_bytes // shared
    )


def occupancy(gpu: Gpu, threads: int, blocks: int) -> float:
    """The share of an SM's warps that so many blocks fill."""
    return blocks * -(-threads // _WARP) / gpu.warps


def _round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit
