"""Why gradients do what they do: what in the model, or in its training, explains a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from gradkern.monitor.alerts import Severity
from gradkern.monitor.network import Network
from gradkern.monitor.past import Past
from gradkern.monitor.record import ActivationTable, StepRecord

DEEP = 10
# What rms(w) * sqrt(fan_in) has to be for an output to be as large as the input (He et al. 2015;
# Glorot and Bengio 2010).
_GAIN = {"ReLU": math.sqrt(2), "LeakyReLU": math.sqrt(2), "ReLU6": math.sqrt(2)}
_TOO_SMALL, _TOO_LARGE = 0.75, 1.5
_LARGE_RECURRENT_GAIN = 1.2
# A bias this far below 0, against inputs of unit variance, switches a ReLU off.
_NEGATIVE_BIAS = -2.0


@dataclass(frozen=True)
class Case:
    """All that a cause is looked for in.

    Attributes:
        network: what the model is made of.
        record: the last judged step.
        past: earlier steps.
        rules: the names of the rules that have alerted; `holding`: those that hold now, and how
            severe they are.
    """

    network: Network
    record: StepRecord
    past: Past
    rules: frozenset[str]
    holding: Mapping[str, Severity]

    @property
    def outputs(self) -> ActivationTable:
        """What modules put out in the first step."""
        return self.past.first_outputs

    @property
    def repeated_layers(self) -> frozenset[str]:
        """Layers with weights that one forward pass calls several times: recurrence by hand."""
        names = (name.partition("#") for name in self.outputs.names)
        return frozenset(n for n, mark, _ in names if mark) & set(self.network.layers)

    @property
    def is_recurrent(self) -> bool:
        return bool(self.network.recurrent or self.repeated_layers)

    @property
    def slope_through_time(self) -> float:
        """The steepest of the recurrent modules, in decades per time step; NaN without one."""
        slopes = [s for s in self.past.time_slopes.values() if not math.isnan(s)]
        return max(slopes, key=abs, default=math.nan)


@dataclass(frozen=True)
class Cause:
    """A cause and what speaks for it."""

    name: str
    evidence: str


_Finder = Callable[[Case], str | None]


def initial_gain(case: Case) -> float:
    """The median gain of the weights at the start, as a multiple of what the activation needs."""
    network = case.network
    if case.past.names != network.names or not network.matrices.any():
        return math.nan
    gains = (case.past.first_weights * np.sqrt(network.fan_in))[network.matrices]
    if len(gains) > 1:
        gains = gains[:-1]  # the output layer keeps no signal alive
    activation = network.activations.most_common(1)
    needed = _GAIN.get(activation[0][0], 1.0) if activation else 1.0
    return float(np.median(gains)) / needed


def _sigmoid(case: Case) -> str | None:
    kinds = case.outputs.kinds
    sigmoids = sum(kind == "Sigmoid" for kind in kinds)
    if not sigmoids or sigmoids < 0.5 * sum("Norm" not in kind for kind in kinds):
        return None
    chosen = np.array([kind == "Sigmoid" for kind in kinds])
    slope = float(np.nanmean(case.outputs.derivative[chosen]))
    return (
        f"each of {sigmoids} sigmoids multiplies the gradient by its slope, at most 1/4 "
        f"(here {slope:.2f} on average)"
    )


def _saturation(case: Case) -> str | None:
    flat = case.outputs.saturated
    if not len(flat) or not np.nanmax(flat, initial=0.0) > 0.5:
        return None
    return f"up to {np.nanmax(flat):.0%} of the outputs were saturated at the first step"


def _initial_scale(case: Case, low: bool, high: bool) -> str | None:
    gain = initial_gain(case)
    if low and gain < _TOO_SMALL:
        return f"the weights began at {gain:.2g} times the size that keeps a signal's size"
    if high and gain > _TOO_LARGE:
        return f"the weights began at {gain:.2g} times the size that keeps a signal's size"
    return None


def _recurrence(case: Case) -> str | None:
    if not case.is_recurrent:
        return None
    where = ", ".join(case.network.recurrent_kinds or sorted(case.repeated_layers))
    slope = case.slope_through_time
    measured = "" if math.isnan(slope) else f", {slope:+.2f} decades per time step"
    return f"the gradient passes the same weights at every time step of {where}{measured}"


def _exploding_recurrence(case: Case) -> str | None:
    network = case.network
    square = [
        i
        for i, (name, layer) in enumerate(zip(network.names, network.layers, strict=True))
        if "weight_hh" in name or (layer in case.repeated_layers and network.matrices[i])
    ]
    gains = [float(case.past.first_weights[i] * math.sqrt(network.fan_in[i])) for i in square]
    if max(gains, default=0.0) > _LARGE_RECURRENT_GAIN:
        return (
            f"the recurrent weights began with a gain of {max(gains):.2g}: above 1 a signal grows "
            "at every time step"
        )
    if case.rules & {"exploding_through_time", "spike", "adam_memory"}:
        return _recurrence(case)
    return None


def _batch_norm_at_depth(case: Case) -> str | None:
    count = case.network.batch_norms
    if count < DEEP or "exploding_profile" not in case.rules:
        return None
    return (
        f"{count} batch norms one behind the other without skip connections multiply the gradient "
        "at every layer (Yang et al. 2019)"
    )


def _learning_rate(case: Case) -> str | None:
    if not case.rules & {"update_too_large", "loss_avalanche", "exponential_growth"}:
        return None
    rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(case.record.learning_rates))
    return f"steps change weights by more than a tenth of their size (learning rate {rates})"


def _small_learning_rate(case: Case) -> str | None:
    if "update_too_small" not in case.rules:
        return None
    rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(case.record.learning_rates))
    return f"steps hardly change the weights (learning rate {rates})"


def _missing_normalisation(case: Case) -> str | None:
    if case.network.depth < DEEP or case.network.normalisations:
        return None
    return f"{case.network.depth} layers, and none of them is normalised"


def _negative_bias(case: Case) -> str | None:
    names = case.network.names
    means = dict(zip(names, case.record.parameters.mean, strict=True))
    low = {n: m for n, m in means.items() if n.endswith("bias") and m < _NEGATIVE_BIAS}
    if not low:
        return None
    return f"{len(low)} biases are far below 0, {min(low.values()):.2g} on average"


def _weight_decay(case: Case) -> str | None:
    decay = case.network.weight_decay
    return f"weight decay {decay:g}" if decay > 0 else None


def _batch_size(case: Case) -> str | None:
    return "a batch with very few rows, as a ragged last one"


# For each verdict the causes in the order in which they are looked for: the specific first.
_CAUSES: dict[str, tuple[tuple[str, _Finder], ...]] = {
    "VANISHING": (
        ("recurrence", lambda c: _recurrence(c) if "vanishing_through_time" in c.rules else None),
        ("sigmoid", _sigmoid),
        ("saturation", _saturation),
        ("initial scale", lambda c: _initial_scale(c, low=True, high=False)),
        ("missing normalisation", _missing_normalisation),
    ),
    "EXPLODING": (
        ("recurrence", _exploding_recurrence),
        ("initial scale", lambda c: _initial_scale(c, low=False, high=True)),
        ("batch norm at depth", _batch_norm_at_depth),
        ("learning rate", _learning_rate),
        ("missing normalisation", _missing_normalisation),
        ("recurrence", _recurrence),
    ),
    "DEAD UNITS": (
        ("negative bias", _negative_bias),
        ("learning rate", _learning_rate),
        ("initial scale", lambda c: _initial_scale(c, low=True, high=True)),
    ),
    "SATURATED": (
        ("initial scale", lambda c: _initial_scale(c, low=False, high=True)),
        ("sigmoid", _sigmoid),
        ("learning rate", _learning_rate),
    ),
    "TINY BATCH": (("batch size", _batch_size),),
    "COLLAPSING": (("weight decay", _weight_decay),),
    "NOT LEARNING": (("learning rate", _small_learning_rate),),
}


def find_cause(kind: str, case: Case) -> Cause:
    """The first cause of a verdict that something speaks for; ``"unknown"`` if nothing does."""
    for name, finder in _CAUSES.get(kind, ()):
        evidence = finder(case)
        if evidence is not None:
            return Cause(name, evidence)
    return Cause("unknown", "")
