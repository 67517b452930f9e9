"""Networks of a few hundred parameters, and steps of training, for the monitor's tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

import gradkern


def network(
    activation: type[nn.Module] = nn.ReLU, width: int = 16, depth: int = 3
) -> nn.Sequential:
    """Linear layers with an activation each, and an output layer of 4."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 4))


def batch(rows: int = 8, width: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs and labels."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, width, generator=generator),
        torch.randint(4, (rows,), generator=generator),
    )


def loss_of(model: nn.Module, seed: int = 0, rows: int = 8) -> Tensor:
    """The loss of one batch."""
    inputs, labels = batch(rows, seed=seed)
    return functional.cross_entropy(model(inputs), labels)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    monitor: gradkern.Monitor,
    max_norm: float | None = None,
    seed: int = 0,
) -> Tensor:
    """One step as users write it; returns the loss."""
    optimizer.zero_grad()
    loss = loss_of(model, seed)
    loss.backward()
    if max_norm is not None:
        monitor.clip_grad_norm_(max_norm)
    optimizer.step()
    monitor.step(loss)
    return loss.detach()


def gradients(model: nn.Module) -> list[Tensor]:
    """Copies in float64."""
    return [p.grad.double().clone() for p in model.parameters() if p.grad is not None]


def total_norm(tensors: list[Tensor]) -> float:
    return float(torch.stack([t.norm() for t in tensors]).norm())
