"""Values and derivatives against references, on all inputs there are, on every instruction set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mpmath
import pytest
import torch
from accuracy_outputs import DTYPES, inputs, key
from activation_reference import (
    DERIVATIVE_ULPS,
    REFERENCES,
    VALUE_ULPS,
    ExactVocabulary,
    Parameters,
    describe,
    exactly,
    expected,
    in_float64,
    parameter_sets,
)
from filelock import FileLock
from torch import Tensor

import gradkern
from gradkern.activations import TABLE, Activation

Outputs = dict[str, dict[str, Tensor]]
ROWS = list(TABLE.values())


def name(thing: object) -> str:
    return getattr(thing, "name", str(thing))


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """By instruction set what accuracy_outputs.py saved; run once for all of pytest's workers."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    found = {}
    for isa in gradkern.build_info()["cpu_isas"]:
        path = base / f"activations-{isa}.pt"
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                unfinished = path.with_suffix(".part")
                script = Path(__file__).with_name("accuracy_outputs.py")
                subprocess.run(
                    [sys.executable, script, unfinished],
                    env={**os.environ, "GRADKERN_CPU_ISA": isa},
                    check=True,
                )
                unfinished.rename(path)
        saved = torch.load(path, mmap=True)
        assert saved["isa"] == isa
        found[isa] = saved["outputs"]
    return found


def problems(
    outputs: Outputs, row: Activation, parameters: Parameters, dtype: torch.dtype
) -> list[str]:
    reference = REFERENCES[row.name]
    x = inputs(dtype, defaults=parameters == row.defaults())
    value = expected(reference.value, x, parameters)
    derivative = expected(reference.derivative, x, parameters)
    found = []
    for isa, results in outputs.items():

        def result(what: str, of: dict[str, Tensor] = results) -> Tensor:
            return of[key(row, parameters, dtype, what)]

        wants = [
            ("value", value, VALUE_ULPS, ()),
            ("value of both", value, VALUE_ULPS, ()),
            ("derivative", derivative, DERIVATIVE_ULPS, reference.zeros),
            ("derivative of both", derivative, DERIVATIVE_ULPS, reference.zeros),
            ("backward", derivative, DERIVATIVE_ULPS, reference.zeros),
        ]
        for what, want, ulps, zeros in wants:
            found.append((isa, what, describe(result(what), want, x, ulps, zeros)))
        if row.can_save_output(parameters):
            what, y = "backward of output", result("value")
            assert reference.of_output is not None
            want = expected(reference.of_output, y, parameters)
            found.append((isa, what, describe(result(what), want, y, DERIVATIVE_ULPS)))
    return [f"{isa} {dtype} {parameters} {what}: {text}" for isa, what, text in found if text]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("row", ROWS, ids=name)
def test_accuracy(outputs: Outputs, row: Activation, dtype: torch.dtype) -> None:
    """Of the value, with_derivative, derivative, and backward from the input and the output."""
    found = [
        problem
        for parameters in parameter_sets(row)
        for problem in problems(outputs, row, parameters, dtype)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("row", ROWS, ids=name)
def test_16_bit_results_are_float32_results_rounded_once(
    row: Activation, dtype: torch.dtype
) -> None:
    x = inputs(dtype, defaults=True)
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    for parameters in parameter_sets(row):
        calls = [
            (row.value, (x,)),
            (row.derivative, (x,)),
            (row.backward, (grad, x)),
            (row.second, (grad, x)),
        ]
        if row.can_save_output(parameters):
            calls.append((row.backward_of_output, (grad, row.value(x, *parameters))))
        for operator, tensors in calls:
            got = operator(*tensors, *parameters)
            want = operator(*(t.float() for t in tensors), *parameters).to(dtype)
            torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("row", ROWS, ids=name)
def test_backward_is_the_derivative_times_the_gradient(row: Activation, dtype: torch.dtype) -> None:
    x = inputs(dtype, defaults=True)[:4096]
    generator = torch.Generator().manual_seed(3)
    grad = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(dtype)
    grad[::100] = float("inf")
    grad[1::100] = float("nan")
    for parameters in parameter_sets(row):
        want = row.derivative(x, *parameters) * grad
        got = row.backward(grad, x, *parameters)
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_second_derivative(row: Activation) -> None:
    """Against the derivative's formula differentiated numerically with 100 bits."""
    x = torch.linspace(-8, 8, 41, dtype=torch.float64) + 0.0123
    one = torch.ones_like(x)
    for parameters in parameter_sets(row):
        with mpmath.workprec(100):
            exact = [
                mpmath.diff(
                    lambda t, p=parameters: mpmath.mpf(
                        REFERENCES[row.name].derivative(ExactVocabulary, t, *map(mpmath.mpf, p))
                    ),
                    number,
                )
                for number in x.tolist()
            ]
        want = torch.tensor([float(e) for e in exact], dtype=torch.float64)
        got = row.second(one, x, *parameters)
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-14)
        single = row.second(one.float(), x.float(), *parameters)
        near = row.second(one, x.float().double(), *parameters).float()
        torch.testing.assert_close(single, near, rtol=2e-5, atol=1e-6)
        if row.can_save_output(parameters):
            # d/dy f'(y) = f''(x) / f'(x)
            steep = row.derivative(x, *parameters)
            kept = steep > 1e-2
            y = row.value(x, *parameters)
            of_output = row.second_of_output(one, y, *parameters) * steep
            torch.testing.assert_close(of_output[kept], got[kept], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_second_derivatives_are_numbers_wherever_the_input_is_one(
    outputs: Outputs, row: Activation
) -> None:
    """At infinities and saturated ends as well, where a limit exists: no infinity times 0."""
    for isa, results in outputs.items():
        for dtype in (torch.float32, torch.float64):
            x = inputs(dtype, defaults=True)
            second = results[key(row, row.defaults(), dtype, "second")]
            bad = second.isnan() & ~x.isnan()
            assert not bad.any(), f"{isa} {dtype}: NaN at {x[bad][:5].tolist()}"


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_the_reference_is_right(row: Activation) -> None:
    """Its derivative is that of its value, and float64 evaluates it well enough for float32."""
    reference = REFERENCES[row.name]
    points = torch.linspace(-12, 12, 31, dtype=torch.float64) + 0.0123
    for parameters in parameter_sets(row):
        with mpmath.workprec(100):
            exact = [mpmath.mpf(p) for p in parameters]
            for number in points.tolist():
                slope = mpmath.diff(
                    lambda t, p=exact: mpmath.mpf(reference.value(ExactVocabulary, t, *p)), number
                )
                want = reference.derivative(ExactVocabulary, mpmath.mpf(number), *exact)
                assert float(slope) == pytest.approx(float(want), rel=1e-9, abs=1e-12), number
        for formula in (reference.value, reference.derivative):
            near = in_float64(formula, points, parameters)
            right = exactly(formula, points, parameters)
            assert near.high == pytest.approx(right.high, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_torch_agrees(row: Activation) -> None:
    """With float64 results of native PyTorch, so that no definition is ours alone."""
    native = getattr(torch.nn.functional, row.name, None)
    if row.name == "gelu_tanh":

        def native(x: Tensor) -> Tensor:
            return torch.nn.functional.gelu(x, approximate="tanh")

    if native is None:
        pytest.skip("torch has no such function")
    x = torch.linspace(-9, 9, 301, dtype=torch.float64)
    for parameters in parameter_sets(row):
        if parameters and not 1e-3 < abs(parameters[0]) < 1e3:
            continue  # torch rounds them more coarsely; test_accuracy has the exact reference
        leaf = x.clone().requires_grad_()
        want = native(leaf, *parameters)
        want.sum().backward()
        y, dy = row.with_derivative(x, *parameters)
        torch.testing.assert_close(y, want.detach(), rtol=1e-12, atol=1e-14)
        if parameters and parameters[0] < 0 and row.saves_output:
            continue  # native's derivative for them is that of another function
        # torch's hardsigmoid multiplies by a sixth in float32, in float64 too.
        rtol = 1e-7 if row.name == "hardsigmoid" else 1e-12
        torch.testing.assert_close(dy, leaf.grad, rtol=rtol, atol=1e-14)
