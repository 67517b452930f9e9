"""Some steps of somebody's training, under the monitor's eyes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradkern.monitor.monitor import Monitor
from gradkern.monitor.report import Report
from gradkern.monitor.sinks import Log

_WHAT = "(model, loss, batches) or (model, loss, batches, optimizer)"


@dataclass(frozen=True)
class Training:
    """What ``gradkern doctor`` runs.

    Attributes:
        model: called with a batch's inputs.
        loss: takes the model's output and the batch's targets, and gives a 0-dim tensor.
        batches: pairs of inputs and targets; begun again when they end.
        optimizer: over the model's parameters.
    """

    model: nn.Module
    loss: Callable[[Any, Any], Tensor]
    batches: Iterable[Any]
    optimizer: Optimizer


def load(target: str) -> Training:
    """Finds and calls a function that makes a training.

    Args:
        target: ``module:function``; the module is also looked for in the current directory. The
            function takes nothing and returns (model, loss, batches), or these and an optimizer;
            without one, Adam with learning rate 1e-3.

    Raises:
        ValueError: `target` has no colon; or the function returned something else.
        ImportError, AttributeError: there is no such module, or no such function in it.
        TypeError: a part of what it returned is not what it must be.
    """
    module_name, _, function = target.partition(":")
    if not module_name or not function:
        raise ValueError(f"{target!r} must be module:function, such as my_module:make_training")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    made = getattr(importlib.import_module(module_name), function)()
    if not isinstance(made, tuple) or len(made) not in (3, 4):
        raise ValueError(f"{target} returned a {type(made).__name__}; it must return {_WHAT}")
    model, loss, batches, *rest = made
    if not isinstance(model, nn.Module):
        raise TypeError(f"{target}: model is a {type(model).__name__}; it must be a nn.Module")
    if not callable(loss):
        raise TypeError(f"{target}: loss is a {type(loss).__name__}; it must be callable")
    if not isinstance(batches, Iterable):
        raise TypeError(f"{target}: batches is a {type(batches).__name__}; it must be iterable")
    optimizer = rest[0] if rest else torch.optim.Adam(model.parameters(), lr=1e-3)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{target}: optimizer is a {type(optimizer).__name__}; it must be one")
    return Training(model, loss, batches, optimizer)


def examine(
    training: Training,
    steps: int,
    max_norm: float | None = None,
    log: Log = None,
    live: bool = False,
) -> Report:
    """Trains for some steps, and reports.

    Args:
        training: is trained: the model is not what it was afterwards.
        steps: at most; fewer where the batches can be read once only and end.
        max_norm: to clip to; None: no clipping.
        log, live: as for :class:`gradkern.Monitor`.

    Raises:
        ValueError: there is no batch.
    """
    training.model.train()
    done = 0
    with Monitor(training.model, training.optimizer, log=log, live=live, on_alert=None) as monitor:
        while done < steps:
            before = done
            for inputs, targets in training.batches:
                loss = training.loss(training.model(inputs), targets)
                training.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                if max_norm is not None:
                    monitor.clip_grad_norm_(max_norm)
                training.optimizer.step()
                monitor.step(loss)
                done += 1
                if done == steps:
                    break
            if done == before:
                break
    if not done:
        raise ValueError("batches gave no batch; it must give at least one")
    return monitor.report()
