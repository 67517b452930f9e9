"""A training as a sequence of events: plain dictionaries, as they are logged and read back.

Kinds of events: ``"run"`` (the names; again whenever they change), ``"step"``, ``"alert"``, and
``"verdict"`` (whenever it changes).
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from gradkern.monitor.alerts import Alert
from gradkern.monitor.network import Network
from gradkern.monitor.record import Floats, StepRecord
from gradkern.monitor.verdict import Verdict

Event: TypeAlias = dict[str, Any]
FORMAT = 1


def run_event(
    record: StepRecord, network: Network, begins: bool, updates: str | None, held: int
) -> Event:
    """The names that the following steps' numbers belong to.

    Args:
        record: the first of these steps.
        network: the model's facts.
        begins: whether a training begins here; else it goes on.
        updates: how they are measured; `held`: the bytes that takes.
    """
    return {
        "kind": "run",
        "format": FORMAT,
        "begins": begins,
        "parameters": list(network.names),
        "layers": list(network.layers),
        "matrices": [bool(matrix) for matrix in network.matrices],
        "outputs": list(record.activations.names),
        "output_kinds": list(record.activations.kinds),
        "optimizers": list(network.optimizers),
        "updates": updates,
        "updates_bytes": held,
    }


def step_event(record: StepRecord) -> Event:
    """The numbers of a step; arrays in the order of the run event's names."""
    outputs = record.activations
    return {
        "kind": "step",
        **record.summary(),
        "learning_rates": list(record.learning_rates),
        "stepped": record.stepped,
        "gradient_norm": record.gradients.norm,
        "weight_rms": record.parameters.rms,
        "update_ratio": record.update_ratio,
        "output_mean": outputs.stats.mean,
        "output_std": outputs.stats.std,
        "saturated": outputs.saturated,
        "dead": outputs.dead,
        "decades_per_time_step": dict(record.decades_per_time_step),
    }


def alert_event(alert: Alert) -> Event:
    """An alert."""
    return {"kind": "alert", **alert.to_dict()}


def verdict_event(verdict: Verdict) -> Event:
    """What the training was judged to be at that step; `verdict` is the verdict's kind."""
    data = verdict.to_dict()
    return {"verdict": data.pop("kind"), "kind": "verdict", **data}


def plain(value: Any) -> Any:
    """The same in what JSON has: five digits, and "nan", "inf" and "-inf" for what it lacks."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else str(value)
    return value


def numbers(values: Any) -> Floats:
    """An array from numbers as :func:`plain` writes them."""
    return np.array([float(value) for value in values], dtype=np.float64)
