"""Checkpoints and averaged copies of a model that is watched."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from small_training import loss_of, train_step
from torch import nn

import gradkern


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.GRU(1, 16, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.recurrent(x[..., None])[0]
        return output[:, -1]


def watched_model() -> nn.Sequential:
    """With every kind of module that hooks are put on."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, 16),
        nn.ReLU(inplace=True),
        Recurrent(),
        gradkern.nn.BatchNorm1d(16, activation="silu"),
        gradkern.nn.GELU(),
        nn.Linear(16, 4),
    )


def pickled(model: nn.Module) -> nn.Sequential:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: nn.Sequential = torch.load(file, weights_only=False)
    return loaded


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copy_is_not_watched(copied: Callable[[nn.Module], nn.Sequential]) -> None:
    model = watched_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradkern.Monitor(model, optimizer, on_alert=None) as monitor:
        train_step(model, optimizer, monitor)
        copy_of_it = copied(model)
        assert copy_of_it[3].on_stats is None
        assert copy_of_it[4].on_stats is None
        # Would be measured, were it the model itself.
        loss_of(copy_of_it).backward()
        train_step(model, optimizer, monitor)
        monitor.flush()
        assert monitor.last is not None
        seen = monitor.last.activations.names
        assert seen == ("1", "2.recurrent", "3", "4")


def test_a_copy_can_be_watched_by_another_monitor() -> None:
    model = watched_model()
    with gradkern.Monitor(model, on_alert=None):
        again = copy.deepcopy(model)
        optimizer = torch.optim.SGD(again.parameters(), lr=0.1)
        with gradkern.Monitor(again, optimizer, on_alert=None) as monitor:
            train_step(again, optimizer, monitor)
            monitor.flush()
            assert monitor.last is not None
            assert monitor.last.activations.names == ("1", "2.recurrent", "3", "4")
            assert again[4].on_stats is not None
