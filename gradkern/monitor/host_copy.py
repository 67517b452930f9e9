"""Numbers on their way from a device to the host, without anything waiting for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradkern.monitor.record import Floats


class HostCopy:
    """Copies float64 tensors of any devices to the host, behind what the devices are doing now.

    The tensors of a device are packed into one buffer, and copied into pinned memory by one
    asynchronous copy with an event behind it. Pinned, since a "non-blocking" copy to pageable
    memory can be read before it has arrived. On the CPU there is nothing to copy.

    Args:
        tensors: float64 tensors, which nobody may change afterwards.

    Example:
        >>> from gradkern.monitor.host_copy import HostCopy
        >>> copy = HostCopy([torch.tensor([1.0, 2.0], dtype=torch.float64)])
        >>> copy.arrived, copy.read()[0]
        (True, array([1., 2.]))
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._shapes = [tuple(t.shape) for t in tensors]
        self._parts: list[Tensor] = [t for t in tensors]
        self._events: list[torch.cuda.Event] = []
        by_device: dict[torch.device, list[int]] = {}
        for i, tensor in enumerate(tensors):
            if tensor.device.type != "cpu":
                by_device.setdefault(tensor.device, []).append(i)
        for device, indices in by_device.items():
            self._send(device, indices)

    def _send(self, device: torch.device, indices: list[int]) -> None:
        packed = torch.cat([self._parts[i].reshape(-1) for i in indices])
        pinned = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
        pinned.copy_(packed, non_blocking=True)
        event: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        self._events.append(event)
        sizes = [self._parts[i].numel() for i in indices]
        for i, part in zip(indices, torch.split(pinned, sizes), strict=True):
            self._parts[i] = part

    @property
    def arrived(self) -> bool:
        """Whether all numbers are on the host; asks, and doesn't wait."""
        return all(event.query() for event in self._events)  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Waits until all numbers are on the host."""
        for event in self._events:
            event.synchronize()

    def read(self) -> list[Floats]:
        """The numbers, in the tensors' order and shapes. Call it once they have arrived."""
        return [
            part.numpy().reshape(shape)
            for part, shape in zip(self._parts, self._shapes, strict=True)
        ]
