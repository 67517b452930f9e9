"""What a family describes: rows, each with two sides to time, the bytes ours moves, and a bar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch


class Data(Protocol):
    """What both sides of a row work on; made once for all consecutive rows of a workload."""

    def restore(self) -> None:
        """Puts every value back to what it was when the data was made."""

    def sample(self) -> torch.Tensor:
        """A copy of some values of each tensor, to see that both sides left the same behind."""


D = TypeVar("D", bound=Data)
D_co = TypeVar("D_co", bound=Data, covariant=True)


class Workload(Protocol[D_co]):
    """A named set of tensors. Hashable and cheap until `make` is called."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def tensors(self) -> int: ...
    @property
    def elements(self) -> int: ...
    def make(self) -> D_co: ...


@dataclass(frozen=True)
class Traffic:
    """Bytes that our side has to move, split by what the machine can do with them.

    Attributes:
        read: bytes of passes over memory that only read.
        read_write: bytes of passes that read and write, both directions counted.
    """

    read: int = 0
    read_write: int = 0

    @property
    def total(self) -> int:
        return self.read + self.read_write

    def seconds_at(self, read_bandwidth: float, copy_bandwidth: float) -> float:
        """The time this traffic takes at the given bandwidths, in bytes per second."""
        return self.read / read_bandwidth + self.read_write / copy_bandwidth


@dataclass(frozen=True)
class Bar:
    """A target that a row is judged by.

    Attributes:
        quantity: "speedup" (their time over ours), "time" (our time over theirs), "share" (of the
            bandwidth measured in the same run) or "seconds" (our time).
        limit: speedups and shares must reach it, times and seconds must not exceed it.
        alternative: one met is enough of the bars with this of an operation on a workload.
    """

    quantity: Literal["speedup", "time", "share", "seconds"]
    limit: float
    alternative: bool = False

    def met_by(self, value: float) -> bool:
        if self.quantity in ("time", "seconds"):
            return value <= self.limit
        return value >= self.limit

    def __str__(self) -> str:
        if self.quantity == "speedup":
            return f"{'or ' if self.alternative else ''}>= {self.limit:g}x as fast"
        if self.quantity == "time":
            return f"<= {self.limit:g}x its time"
        if self.quantity == "seconds":
            return f"<= {self.limit * 1e6:.0f} us"
        return f">= {self.limit:.0%} of bandwidth"


@dataclass(frozen=True)
class Sides:
    """The two calls of a row, over the same data.

    Attributes:
        ours: gradkern's call.
        theirs: the call it is compared with.
        traffic: bytes that `ours` moves.
        reset: for calls that change their data: run, untimed, every `pairs_per_reset` pairs.
        pairs_per_reset: how many pairs may run before the data must be put back.
        comparable: turns both results into two tensors that must agree. Without it two results
            that are tensors are compared as they are, and other results are not.
    """

    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    traffic: Traffic
    reset: Callable[[], None] | None = None
    pairs_per_reset: int = 1
    comparable: Callable[[Any, Any], tuple[torch.Tensor, torch.Tensor]] | None = None


@dataclass(frozen=True)
class Row(Generic[D]):
    """One line of the table: an operation on a workload, against something."""

    operation: str
    against: str
    workload: Workload[D]
    prepare: Callable[[D], Sides]
    bar: Bar | None = None

    @property
    def title(self) -> str:
        workload = self.workload
        dtype = str(workload.dtype).removeprefix("torch.")
        return f"{workload.device.type} {workload.name} {dtype}: {self.operation} / {self.against}"
