"""Verdicts: each sick training gets its own, healthy ones none; causes and ranked remedies.

Trainings are cut short here; `matrix.py` runs all of them in full.
"""

from __future__ import annotations

import json
import math

import pytest
import torch
from workloads import HEALTHY, SICK, Training

import gradkern
from gradkern.monitor.remedies import REMEDIES, ranked


@pytest.mark.parametrize("training", SICK, ids=lambda t: t.name)
def test_a_sick_training_gets_its_own_verdict(training: Training) -> None:
    monitor, _ = training.run(0, training.quick_steps)
    verdict = monitor.verdict()
    assert verdict.kind == training.verdict, verdict.headline
    if training.cause:
        assert verdict.cause.name == training.cause
    assert verdict.severity in ("warning", "error")
    assert verdict.evidence
    assert verdict.remedies
    assert verdict.headline.startswith(verdict.kind)
    json.dumps(verdict.to_dict())


# Those that take longest, and those alike, are left to matrix.py.
_QUICK = [t for t in HEALTHY if "adding" not in t.name and "identity" not in t.name][::2]


@pytest.mark.parametrize("training", _QUICK, ids=lambda t: t.name)
def test_a_healthy_training_has_no_error(training: Training) -> None:
    monitor, _ = training.run(0, 220 if "CNN" not in training.name else 80)
    assert not [a for a in monitor.alerts if a.severity == "error"]
    assert monitor.verdict().kind == "HEALTHY", monitor.verdict().headline


def test_the_verdict_of_vanishing_sigmoids_in_words() -> None:
    training = next(t for t in SICK if t.name == "10 sigmoid")
    monitor, _ = training.run(0, 30)
    verdict = monitor.verdict()
    assert verdict.layers[0] == "0"
    assert verdict.slope == pytest.approx(-0.83, abs=0.06)
    assert "norm falls 0.8" in verdict.headline
    assert "cause: sigmoid; try ReLU with He initialisation, or batch norm" in verdict.headline
    assert verdict.severity == "warning", "the loss has not stalled yet"
    assert "at most 1/4" in verdict.cause.evidence


def test_a_healthy_verdict_in_words() -> None:
    monitor, _ = HEALTHY[0].run(0, 20)
    verdict = monitor.verdict()
    assert verdict.headline == "HEALTHY: nothing is wrong after 20 steps"
    assert math.isnan(verdict.slope)
    assert not verdict.remedies


def test_without_a_step_there_is_no_verdict() -> None:
    with pytest.raises(RuntimeError, match="nothing has been measured"):
        gradkern.Monitor(torch.nn.Linear(2, 2)).verdict()


# Remedies.


def names(kind: str, cause: str, recurrent: bool = False) -> list[str]:
    return [remedy.name for remedy in ranked(kind, cause, recurrent)]


def test_remedies_that_fit_the_cause_come_first_and_the_usual_order_breaks_ties() -> None:
    assert names("VANISHING", "sigmoid")[:3] == [
        "ReLU with He initialisation",
        "batch norm",
        "skip connections",
    ]
    assert names("EXPLODING", "learning rate")[:2] == ["a smaller learning rate", "batch norm"]
    assert names("VANISHING", "initial scale")[0] == "initialisation that fits the activation"
    assert names("EXPLODING", "batch norm at depth")[0] == "skip connections"
    assert names("DEAD UNITS", "negative bias")[0] == "initialisation that fits the activation"


def test_an_exploding_recurrent_network_is_not_told_to_use_relu() -> None:
    offered = names("EXPLODING", "recurrence", recurrent=True)
    assert offered[:3] == [
        "gradient clipping",
        "gates: GRU or LSTM",
        "orthogonal recurrent weights",
    ]
    assert not any("ReLU" in name for name in offered)
    assert "batch norm" not in offered


def test_dead_units_of_a_bias_are_not_promised_to_revive_with_leaky_relu() -> None:
    assert "SELU, ELU or leaky ReLU" not in names("DEAD UNITS", "negative bias")


def test_all_the_usual_remedies_are_there() -> None:
    text = " ".join(f"{r.name} {r.call}" for r in REMEDIES)
    for remedy in (
        "ReLU", "LeakyReLU", "SELU", "BatchNorm", "learning rate", "x = x + block(x)",
        "kaiming_normal_", "xavier_normal_", "clip_grad_norm_", "clip_grad_value_", "AdamW",
        "weight_decay", "NAdam", "requires_grad_(False)", "GRU", "orthogonal_", "drop_last=True",
    ):  # fmt: skip
        assert remedy in text


def test_every_remedy_is_offered_somewhere() -> None:
    keys = {key for remedy in REMEDIES for key in remedy.fits}
    offered = {
        remedy
        for key in keys | {f"{kind}/unknown" for r in REMEDIES for kind in r.helps}
        for recurrent in (False, True)
        for remedy in names(*key.split("/"), recurrent)
    }
    assert offered == {remedy.name for remedy in REMEDIES}


# What is done with alerts.


def test_errors_can_be_raised() -> None:
    training = next(t for t in SICK if t.name == "last batch of 3")
    with pytest.raises(gradkern.monitor.TrainingError, match="tiny_batch") as caught:
        training.run(0, 30, on_alert="raise")
    assert caught.value.alert.rule == "tiny_batch"


def test_alerts_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    training = next(t for t in SICK if t.name == "last batch of 3")
    training.run(0, 30, on_alert="log")
    (record,) = [r for r in caplog.records if "tiny_batch" in r.getMessage()]
    assert record.name == "gradkern.monitor"
    assert record.levelname == "ERROR"


def test_alerts_are_handed_to_a_callable() -> None:
    training = next(t for t in SICK if t.name == "last batch of 3")
    told: list[gradkern.monitor.Alert] = []
    monitor, _ = training.run(0, 30, on_alert=told.append)
    assert told == monitor.alerts
