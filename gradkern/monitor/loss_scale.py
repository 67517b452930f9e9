"""Whether gradients still carry the scale that ``torch.amp.GradScaler`` gave the loss."""

from __future__ import annotations

from torch.amp.grad_scaler import GradScaler, OptState
from torch.optim import Optimizer


def is_unscaled(scaler: GradScaler, optimizer: Optimizer) -> bool:
    """Whether ``scaler.unscale_(optimizer)`` or ``scaler.step`` has been called in this step."""
    state = scaler._per_optimizer_states[id(optimizer)]
    return state["stage"] is not OptState.READY
