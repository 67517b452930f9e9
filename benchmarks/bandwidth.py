"""The memory bandwidth that a device reaches with nothing but a plain loop, in the same run."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

import torch

from benchmarks.paired_timing import Clock
from gradkern import _core


def read_plainly(buffer: torch.Tensor, nbytes: int | None = None) -> object:
    """Reads the first `nbytes` of `buffer` (all of it by default) and does nothing else.

    On the CPU a vector loop on torch's threads; on CUDA torch's own sum, the nearest there is.
    """
    nbytes = buffer.nbytes if nbytes is None else nbytes
    if buffer.device.type == "cpu":
        return _core.read_all(buffer.data_ptr(), nbytes)
    return buffer[: nbytes // buffer.element_size()].sum()


@dataclass
class BandwidthMeter:
    """Best read and copy bandwidth, in bytes per second, over all rounds so far.

    A round's figure is the median of its passes, as a row's time is the median of its calls; the
    best round counts, so that a slow moment of the machine cannot make our share look larger.

    Attributes:
        device: where to measure.
        clock: times one pass.
        nbytes: bytes of one pass; far above every cache.
        passes: passes of a round.
        reads: read bandwidth of every round.
        copies: copy bandwidth of every round, both directions counted.
    """

    device: torch.device
    clock: Clock
    nbytes: int = 512 << 20
    passes: int = 7
    reads: list[float] = field(default_factory=list)
    copies: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """Runs one round."""
        buffer = torch.ones(self.nbytes // 4, dtype=torch.float32, device=self.device)
        source, target = buffer.chunk(2)

        def median_seconds(copying: bool) -> float:
            return statistics.median(
                self.clock(lambda: target.copy_(source) if copying else read_plainly(buffer))
                for _ in range(self.passes)
            )

        self.reads.append(buffer.nbytes / median_seconds(copying=False))
        self.copies.append(2 * source.nbytes / median_seconds(copying=True))

    @property
    def read(self) -> float:
        return max(self.reads)

    @property
    def copy(self) -> float:
        return max(self.copies)
