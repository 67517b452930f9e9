"""Each rule on made-up records, at both sides of its threshold."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import gradkern
from gradkern.monitor import RULES, ActivationTable, Finding, Observation, Rule, StatTable
from gradkern.monitor.judge import Judge
from gradkern.monitor.network import Network
from gradkern.monitor.record import StepRecord
from gradkern.monitor.rules import build_rules

LAYERS = 8
NAMES = tuple(f"{i}.weight" for i in range(LAYERS))
ONES = np.ones(LAYERS)


def table(norms: Any = 1.0, count: float = 100.0, **columns: Any) -> StatTable:
    """Statistics of tensors of 100 elements with mean 0 and the given norms."""
    norms = ONES * norms
    values = np.zeros((LAYERS, 8))
    values[:, 0] = count
    values[:, 2] = norms**2
    values[:, 3] = norms
    for name, column in columns.items():
        values[:, {"sum": 1, "abs_max": 3, "zeros": 5, "nans": 6, "infs": 7}[name]] = column
    return StatTable(NAMES, values)


def outputs(**columns: Any) -> ActivationTable:
    """Outputs of five modules."""
    n = 5
    spread = np.ones(n) * columns.pop("std", 1.0)
    values = np.zeros((n, 8))
    values[:, 0] = 100.0
    values[:, 2] = 100 * spread**2
    nan = np.full(n, np.nan)
    kind = columns.pop("kind", "ReLU")
    given = {name: np.ones(n) * value for name, value in columns.items()}
    arrays = {"mean_abs": nan, "saturated": nan, "derivative": nan, "dead": nan} | given
    names = tuple(f"act{i}" for i in range(n))
    return ActivationTable(StatTable(names, values), (kind,) * n, **arrays)


HEALTHY = StepRecord(
    step=0,
    loss=1.0,
    learning_rates=(1e-3,),
    total_norm_before=1.0,
    total_norm_after=1.0,
    clip_coefficient=1.0,
    stepped=True,
    gradients=table(1.0),
    parameters=table(10.0, abs_max=1.0),
    updates=table(1e-2),
    unchanged=np.zeros(LAYERS, dtype=bool),
    activations=outputs(dead=0.0, mean_abs=0.5, saturated=0.0),
)
NETWORK = Network(
    names=NAMES,
    layers=tuple(str(i) for i in range(LAYERS)),
    matrices=np.ones(LAYERS, dtype=bool),
    embeddings=np.zeros(LAYERS, dtype=bool),
    fan_in=100 * ONES,
    adam_eps=1e-8 * ONES,
    activations=Counter(ReLU=5),
    last_activation="act4",
    normalisations=0,
    batch_norms=0,
    recurrent=(),
    recurrent_kinds=(),
    weight_decay=0.0,
    optimizers=("Adam",),
)


def judged(rule: str, *records: StepRecord, **switches: Any) -> list[gradkern.monitor.Alert]:
    """The alerts of one rule on records that are numbered here."""
    built = [r for r in build_rules({rule: switches} if switches else {}) if r.name == rule]
    judge = Judge(built)
    for step, record in enumerate(records, 1):
        judge.judge(replace(record, step=step), NETWORK)
    return list(judge.alerts)


def learning(records: list[StepRecord]) -> list[StepRecord]:
    """The same with a loss that falls."""
    return [replace(r, loss=0.99**i) for i, r in enumerate(records)]


FALLING = 10.0 ** np.arange(-7, 1)  # a decade a layer; the first has 1e-7


def test_vanishing_warns_after_twenty_steps_and_is_an_error_with_a_stalled_loss() -> None:
    vanished = replace(HEALTHY, gradients=table(FALLING))
    alerts = judged("vanishing", *[vanished] * 210)
    assert [(a.step, a.severity) for a in alerts] == [(20, "warning"), (200, "error")]
    assert alerts[0].value == pytest.approx(1e-7)
    assert alerts[0].layers == ("0", "1", "2", "3")
    assert "-1.00 decades per layer" in alerts[0].message
    assert not judged("vanishing", *[vanished] * 19)
    assert [a.severity for a in judged("vanishing", *learning([vanished] * 300))] == ["warning"]


@pytest.mark.parametrize(
    "norms",
    [
        10.0 * FALLING**0.5,  # the ratio is small, the norm isn't: 3e-3
        1e-5 * ONES,  # the other way round
        np.r_[0.0, ONES[1:]],  # zero is not vanished
    ],
)
def test_not_vanishing(norms: Any) -> None:
    assert not judged("vanishing", *[replace(HEALTHY, gradients=table(norms))] * 30)


def test_vanishing_absolute() -> None:
    tiny = replace(HEALTHY, gradients=table(9e-7))  # rms 9e-8
    (alert,) = judged("vanishing_absolute", *[tiny] * 20)
    assert len(alert.layers) == LAYERS
    assert not judged("vanishing_absolute", *[replace(HEALTHY, gradients=table(1.1e-6))] * 20)
    converged = [replace(HEALTHY, loss=1.0)] * 5 + [replace(tiny, loss=0.01)] * 120
    assert not judged("vanishing_absolute", *converged)


@pytest.mark.parametrize(("ratio", "alerts"), [(69.0, 0), (71.0, 1)])
def test_exploding_profile(ratio: float, alerts: int) -> None:
    exploding = replace(HEALTHY, gradients=table(np.geomspace(ratio, 1.0, LAYERS)))
    assert len(judged("exploding_profile", *[exploding] * 10)) == alerts
    assert not judged("exploding_profile", *[exploding] * 9)


@pytest.mark.parametrize(
    ("slope", "severities"),
    [(0.07, []), (0.1, ["note"]), (0.3, ["warning"]), (-0.3, ["warning"])],
)
def test_depth_slope(slope: float, severities: list[str]) -> None:
    sloped = replace(HEALTHY, gradients=table(10.0 ** (-slope * np.arange(LAYERS))))
    alerts = judged("depth_slope", *[sloped] * 20)
    assert [a.severity for a in alerts] == severities
    for alert in alerts:
        assert alert.value == pytest.approx(slope)
        assert ("grows" in alert.message) == (slope > 0)


@pytest.mark.parametrize(("slope", "found"), [(-0.2, True), (-0.05, False), (0.2, False)])
def test_vanishing_through_time_needs_a_stalled_loss(slope: float, found: bool) -> None:
    first = replace(HEALTHY, decades_per_time_step={"rnn": slope})
    assert bool(judged("vanishing_through_time", first, *[HEALTHY] * 230)) == found
    assert not judged("vanishing_through_time", *learning([first, *[HEALTHY] * 230]))


@pytest.mark.parametrize(("slope", "found"), [(0.1, True), (0.01, False), (-0.2, False)])
def test_exploding_through_time(slope: float, found: bool) -> None:
    first = replace(HEALTHY, decades_per_time_step={"rnn": slope})
    assert bool(judged("exploding_through_time", first)) == found


@pytest.mark.parametrize(("rms", "found"), [(9e-8, True), (1.1e-7, False), (0.0, False)])
def test_adam_eps(rms: float, found: bool) -> None:
    small = replace(HEALTHY, gradients=table(10 * rms))
    assert bool(judged("adam_eps", *[small] * 20)) == found


def noisy(steps: int) -> list[StepRecord]:
    noise = np.random.default_rng(0)
    return [
        replace(HEALTHY, total_norm_before=1 + 0.1 * noise.standard_normal()) for _ in range(steps)
    ]


@pytest.mark.parametrize(("norm", "found"), [(1.5, False), (1.9, True)])
def test_spike(norm: float, found: bool) -> None:
    records = [*noisy(128), replace(HEALTHY, total_norm_before=norm)]
    alerts = judged("spike", *records)
    assert bool(alerts) == found
    assert all(a.severity == "note" and a.step == 129 for a in alerts)


def test_a_spike_of_a_hundred_times_is_worse_unless_it_is_clipped() -> None:
    spike = replace(HEALTHY, total_norm_before=150.0)
    severities = {
        case: [a.severity for a in judged("spike", *records)]
        for case, records in {
            "early": [*noisy(100), spike],
            "stalled": [*noisy(220), spike],
            "clipped": [*noisy(220), replace(spike, clip_coefficient=0.01)],
        }.items()
    }
    assert severities == {"early": ["warning"], "stalled": ["error"], "clipped": ["note"]}


def test_adam_memory_of_an_explosion_that_was_not_clipped() -> None:
    first = replace(HEALTHY, total_norm_before=150.0, total_norm_after=150.0)
    still = replace(HEALTHY, updates=table(1e-5))
    alerts = judged("adam_memory", first, *[still] * 210)
    assert [(a.step, a.severity) for a in alerts] == [(52, "warning"), (200, "error")]
    assert alerts[0].value == pytest.approx(150)
    assert not judged("adam_memory", first, *[HEALTHY] * 210), "weights move"
    clipped = replace(first, total_norm_after=1.0, clip_coefficient=1 / 150)
    assert not judged("adam_memory", clipped, *[still] * 210)
    smaller = replace(first, total_norm_after=90.0)
    assert not judged("adam_memory", smaller, *[still] * 210)


@pytest.mark.parametrize(("share", "found"), [(0.5, False), (0.51, True)])
def test_always_clipping(share: float, found: bool) -> None:
    clipped = [replace(HEALTHY, clip_coefficient=0.5)] * round(100 * share)
    records = clipped + [HEALTHY] * (100 - len(clipped))
    assert bool(judged("always_clipping", *records)) == found


@pytest.mark.parametrize(
    ("share", "severities"), [(0.4, []), (0.6, ["warning"]), (0.95, ["error"])]
)
def test_dead_units(share: float, severities: list[str]) -> None:
    dead = replace(HEALTHY, activations=outputs(dead=np.array([0, 0, share, 0, 0])))
    alerts = judged("dead_units", *[dead] * 20)
    assert [a.severity for a in alerts] == severities
    assert all(a.layers == ("act2",) for a in alerts)


def test_saturation_of_hidden_layers_only() -> None:
    shares = np.array([0.4, 0.6, 0, 0, 0.9])
    saturated = replace(HEALTHY, activations=outputs(saturated=shares, kind="Tanh"))
    (alert,) = judged("saturation", *[saturated] * 20)
    assert alert.layers == ("act1",), "act4 is the last activation"
    assert alert.value == pytest.approx(0.6)


def test_poor_initialisation_in_the_first_ten_steps_only() -> None:
    falling = replace(HEALTHY, activations=outputs(std=10.0 ** -np.arange(5)))
    assert judged("poor_initialisation", *[falling] * 5)
    assert not judged("poor_initialisation", *[HEALTHY] * 8, *[falling] * 20)
    even = replace(HEALTHY, activations=outputs(std=np.array([1, 1.5, 2, 2.5, 3])))
    assert not judged("poor_initialisation", *[even] * 10)


@pytest.mark.parametrize(("size", "found"), [(9.9, False), (10.0, True)])
def test_large_outputs(size: float, found: bool) -> None:
    large = replace(HEALTHY, activations=outputs(mean_abs=size))
    assert bool(judged("large_outputs", *[large] * 10)) == found
    # Of modules that measure themselves.
    large = replace(HEALTHY, activations=outputs(std=np.full(5, size)))
    assert bool(judged("large_outputs", *[large] * 10)) == found


@pytest.mark.parametrize(("values", "found"), [(8, False), (7, True)])
def test_tiny_batch(values: int, found: bool) -> None:
    record = replace(HEALTHY, values_per_channel={"bn": values, "other": 100})
    alerts = judged("tiny_batch", record)
    assert bool(alerts) == found
    assert all(a.layers == ("bn",) and a.severity == "error" for a in alerts)


@pytest.mark.parametrize(("ratio", "found"), [(0.09, False), (0.11, True)])
def test_update_too_large(ratio: float, found: bool) -> None:
    large = replace(HEALTHY, updates=table(10 * ratio))
    assert bool(judged("update_too_large", *[large] * 3)) == found
    assert not judged("update_too_large", *[replace(large, stepped=False)] * 3)


@pytest.mark.parametrize(("ratio", "found"), [(1.1e-5, False), (0.9e-5, True)])
def test_update_too_small(ratio: float, found: bool) -> None:
    small = replace(HEALTHY, updates=table(10 * ratio))
    assert bool(judged("update_too_small", *[small] * 50)) == found


@pytest.mark.parametrize(("ratio", "found"), [(0.011, False), (0.009, True)])
def test_lower_layers_still(ratio: float, found: bool) -> None:
    still = replace(HEALTHY, updates=table(1e-2 * np.geomspace(ratio, 1, LAYERS)))
    assert bool(judged("lower_layers_still", *[still] * 20)) == found


def test_unchanged_weights() -> None:
    still = replace(HEALTHY, unchanged=np.arange(LAYERS) == 2)
    (alert,) = judged("unchanged_weights", *[still] * 3)
    assert alert.layers == ("2",)
    assert not judged("unchanged_weights", still, still, HEALTHY, still, still)
    warm_up = replace(still, learning_rates=(0.0,))
    assert not judged("unchanged_weights", *[warm_up] * 10)
    assert not judged("unchanged_weights", *[replace(still, stepped=False)] * 10)


@pytest.mark.parametrize(("size", "found"), [(4.9, False), (5.1, True)])
def test_large_weights(size: float, found: bool) -> None:
    large = replace(HEALTHY, parameters=table(10.0, abs_max=size))
    assert bool(judged("large_weights", *[large] * 10)) == found


@pytest.mark.parametrize(("share", "found"), [(1.1e-3, False), (0.9e-3, True)])
def test_collapsing_weights(share: float, found: bool) -> None:
    small = replace(HEALTHY, parameters=table(10.0 * share))
    assert bool(judged("collapsing_weights", HEALTHY, *[small] * 5)) == found


def growing(steps_to_double: float, steps: int) -> list[StepRecord]:
    return [
        replace(HEALTHY, parameters=table(10 * 2 ** (i / steps_to_double))) for i in range(steps)
    ]


def test_exponential_growth() -> None:
    assert not judged("exponential_growth", *growing(60, 100))
    alerts = judged("exponential_growth", *growing(30, 110))
    assert [(a.step, a.severity) for a in alerts] == [(39, "warning"), (101, "error")]
    slowing = [replace(HEALTHY, parameters=table(np.sqrt(1 + i))) for i in range(100)]
    assert not judged("exponential_growth", *slowing)


def test_non_finite_says_what_and_where() -> None:
    broken = replace(
        HEALTHY,
        loss=np.nan,
        gradients=table(1.0, nans=np.arange(LAYERS) == 3),
        parameters=table(10.0, infs=np.arange(LAYERS) > 5),
    )
    (alert,) = judged("non_finite", HEALTHY, broken)
    assert alert.severity == "error"
    assert alert.layers == ("3.weight",)
    assert "the loss (nan), gradients of 1 of 8, parameters of 2 of 8" in alert.message
    without_loss = replace(HEALTHY, loss=np.nan)
    assert not judged("non_finite", without_loss, without_loss), "no loss was ever given"
    skipped = replace(HEALTHY, gradients=table(1.0, infs=ONES), stepped=False)
    assert not judged("non_finite", skipped)


@pytest.mark.parametrize(("loss", "found"), [(9.0, False), (11.0, True)])
def test_loss_avalanche(loss: float, found: bool) -> None:
    assert bool(judged("loss_avalanche", *[HEALTHY] * 6, replace(HEALTHY, loss=loss))) == found
    low = [HEALTHY] * 5 + [replace(HEALTHY, loss=0.01)] * 50
    assert not judged("loss_avalanche", *low, replace(HEALTHY, loss=0.5)), "below the start"


def test_loss_stall() -> None:
    assert [a.step for a in judged("loss_stall", *[HEALTHY] * 210)] == [200]
    assert not judged("loss_stall", *learning([HEALTHY] * 210))
    converged = [HEALTHY] * 5 + [replace(HEALTHY, loss=0.01)] * 300
    assert not judged("loss_stall", *converged)


def test_no_rule_speaks_of_a_healthy_step() -> None:
    judge = Judge(build_rules())
    for step, record in enumerate(learning([HEALTHY] * 150), 1):
        judge.judge(replace(record, step=step), NETWORK)
    assert not judge.alerts


def test_what_has_learnt_may_rest_and_saturate() -> None:
    learnt = [HEALTHY] * 5 + [replace(HEALTHY, loss=0.3)] * 300
    assert {a.severity for a in judged("loss_stall", *learnt)} == {"note"}
    saturated = outputs(saturated=0.9, kind="Tanh")
    late = [replace(r, activations=saturated) for r in learnt[100:]]
    assert {a.severity for a in judged("saturation", *learnt[:100], *late)} == {"note"}


# The registry.


def test_every_rule_is_complete_and_tested() -> None:
    tests = "".join(name for name in globals() if name.startswith("test_"))
    for name, cls in RULES.items():
        assert cls.name == name
        assert isinstance(cls.default, float)
        assert cls.unit
        assert cls.source
        assert cls.persistence >= 1
        assert cls.__doc__
        assert name in tests, f"no test is named after {name}"


def test_switches() -> None:
    assert {r.name for r in build_rules()} == set(RULES)
    assert "spike" not in {r.name for r in build_rules({"spike": False})}
    (found,) = [r for r in build_rules({"spike": 9}) if r.name == "spike"]
    assert found.threshold == 9
    options = {"spike": {"threshold": 4.0, "persistence": 2}}
    (found,) = [r for r in build_rules(options) if r.name == "spike"]
    assert (found.threshold, found.persistence) == (4.0, 2)


def test_a_rule_of_ones_own() -> None:
    @gradkern.rule
    class TwoLayers(Rule):
        name, default, unit, source = "two_layers", 2.0, "layers", "this test"

        def observe(self, seen: Observation) -> Finding | None:
            return Finding(("a", "b"), 2.0, "two of them", "note")

    try:
        (alert,) = judged("two_layers", HEALTHY)
        assert str(alert) == "step 1: note: two_layers: two of them (a, b)"
    finally:
        del RULES["two_layers"]


@pytest.mark.parametrize(
    ("attributes", "error", "message"),
    [
        ({"default": 1.0, "unit": "", "source": ""}, TypeError, "has no name"),
        ({"name": "a", "unit": "", "source": ""}, TypeError, "has no default"),
        (
            {"name": "spike", "default": 1.0, "unit": "", "source": ""},
            ValueError,
            "as GradientSpike",
        ),
    ],
)
def test_rules_that_are_refused(
    attributes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        gradkern.rule(type("Mine", (Rule,), attributes))
    with pytest.raises(TypeError, match="must be a subclass"):
        gradkern.rule(int)  # type: ignore[type-var]


def test_an_alert_comes_again_only_after_a_long_quiet() -> None:
    tiny = replace(HEALTHY, values_per_channel={"bn": 3})
    often = [tiny, *[HEALTHY] * 20] * 4
    assert len(judged("tiny_batch", *often)) == 1
    assert len(judged("tiny_batch", tiny, *[HEALTHY] * 100, tiny)) == 2
