"""Where the kernels under test run."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class KernelBackend:
    """A place where kernels run, and the device that tensors for it are made on."""

    name: str
    device: torch.device
