"""The activations of the table by their definitions, and how far a kernel may be from them.

A row's formulas are written once over a small vocabulary, which NumPy fills in float64 (for float32
and 16-bit storage) and mpmath with 100 bits (for float64, and as a check of the formulas
themselves). NaN is no business of theirs: it gives NaN everywhere.

A new row of the table needs its entry in `REFERENCES`; every test of `tests/activations` follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gradkern.activations import TABLE, Activation

Floats = npt.NDArray[np.float64]
Parameters = tuple[float, ...]
Formula = Callable[..., Any]  # (vocabulary, x, *parameters)


class ArrayVocabulary:
    """Float64 arrays."""

    exp, expm1, log1p, tanh, sqrt = np.exp, np.expm1, np.log1p, np.tanh, np.sqrt
    absolute, where, pi = np.abs, np.where, np.pi

    @staticmethod
    def erfc(x: Floats) -> Floats:
        return torch.special.erfc(torch.from_numpy(np.asarray(x))).numpy()

    @staticmethod
    def number(digits: str) -> float:
        return float(digits)


class ExactVocabulary:
    """Single numbers of mpmath."""

    exp, expm1, log1p, tanh, sqrt = mpmath.exp, mpmath.expm1, mpmath.log1p, mpmath.tanh, mpmath.sqrt
    erfc, absolute, number, pi = mpmath.erfc, abs, mpmath.mpf, mpmath.pi

    @staticmethod
    def where(condition: bool, if_true: Any, if_false: Any) -> Any:
        return if_true if condition else if_false


@dataclass(frozen=True)
class Reference:
    """What one row must compute.

    Attributes:
        value, derivative: of x and the parameters.
        of_output: the derivative in terms of the value, for rows that save their output.
        zeros: where the derivative is 0 between two values that are not.
        parameters: values of the parameters beside the defaults.
    """

    value: Formula
    derivative: Formula
    of_output: Formula | None = None
    zeros: tuple[float, ...] = ()
    parameters: tuple[Parameters, ...] = ()


def _clamped(m: Any, x: Any, low: float, high: float) -> Any:
    return m.where(x > high, high, m.where(x < low, low, x))


def _positive(m: Any, x: Any) -> Any:
    return m.where(x > 0, x, 0 * m.absolute(_clamped(m, x, -1, 1)))


def _bounded(m: Any, x: Any) -> Any:
    """Finite where a decaying factor makes the product 0 anyway."""
    return _clamped(m, x, -20000, 20000)


def _from_below(m: Any, x: Any) -> Any:
    return m.where(x < -20000, -20000, x)


def _logistic(m: Any, x: Any) -> Any:
    e = m.exp(-m.absolute(_bounded(m, x)))
    return m.where(x >= 0, 1 / (1 + e), e / (1 + e))


def _exponential_linear(alpha: Formula, scale: Formula, width: Formula) -> tuple[Formula, ...]:
    def value(m: Any, x: Any, *p: Any) -> Any:
        below = scale(m) * alpha(m, *p) * m.expm1(_from_below(m, x / width(*p)))
        return m.where(x > 0, scale(m) * x, below)

    def derivative(m: Any, x: Any, *p: Any) -> Any:
        height = scale(m) * alpha(m, *p) / width(*p)
        return m.where(x > 0, scale(m), height * m.exp(_from_below(m, x / width(*p))))

    def of_output(m: Any, y: Any, *p: Any) -> Any:
        return m.where(y > 0, scale(m), (y + scale(m) * alpha(m, *p)) / width(*p))

    return value, derivative, of_output


def _normal_cdf(m: Any, x: Any) -> Any:
    return m.erfc(-_clamped(m, x, -100, 100) / m.sqrt(m.number("2"))) / 2


def _gelu_derivative(m: Any, x: Any) -> Any:
    bounded = _clamped(m, x, -100, 100)
    density = m.exp(-bounded * bounded / 2) / m.sqrt(2 * m.pi * m.number("1"))
    return _normal_cdf(m, x) + bounded * density


def _gelu_tanh_argument(m: Any, x: Any) -> tuple[Any, Any]:
    """Twice the argument of tanh, and its slope."""
    bounded = _clamped(m, x, -100, 100)
    factor, cubic = 2 * m.sqrt(2 * m.number("1") / m.pi), m.number("0.044715")
    slope = factor * (1 + 3 * cubic * bounded * bounded)
    return factor * (bounded + cubic * bounded * bounded * bounded), slope


def _gelu_tanh(m: Any, x: Any) -> Any:
    return _from_below(m, x) * _logistic(m, _gelu_tanh_argument(m, x)[0])


def _gelu_tanh_derivative(m: Any, x: Any) -> Any:
    z, slope = _gelu_tanh_argument(m, x)
    return _logistic(m, z) * (1 + _clamped(m, x, -100, 100) * _logistic(m, -z) * slope)


def _mish_parts(m: Any, x: Any) -> tuple[Any, Any]:
    """tanh(log(1 + exp(x))) and its slope."""
    n = m.exp(_clamped(m, x, -20000, 100))
    w = n * (n + 2)
    return w / (w + 2), 4 * n * (n + 1) / ((w + 2) * (w + 2))


def _softplus(m: Any, x: Any, beta: Any, threshold: Any) -> Any:
    a = beta * x
    log = _positive(m, a) + m.log1p(m.exp(-m.absolute(_bounded(m, a))))
    return m.where(a > threshold, x, log / beta)


def _inside(m: Any, x: Any, low: float, high: float, value: Any = 1) -> Any:
    return m.where(x > low, m.where(x < high, value, 0 * value), 0 * value)


_RELU = Reference(
    value=_positive,
    derivative=lambda m, x: m.where(x > 0, 1.0, 0.0),
    of_output=lambda m, y: m.where(y > 0, 1.0, 0.0),
)
_ELU = _exponential_linear(lambda m, alpha: alpha, lambda m: 1, lambda *p: 1)
_SELU = _exponential_linear(
    lambda m: m.number("1.6732632423543772848170429916717"),
    lambda m: m.number("1.0507009873554804934193349852946"),
    lambda *p: 1,
)
_CELU = _exponential_linear(lambda m, alpha: alpha, lambda m: 1, lambda alpha: alpha)

REFERENCES: dict[str, Reference] = {
    "sigmoid": Reference(
        value=_logistic,
        derivative=lambda m, x: _logistic(m, x) * _logistic(m, -x),
        of_output=lambda m, y: y * (1 - y),
    ),
    "tanh": Reference(
        value=lambda m, x: m.tanh(_bounded(m, x)),
        derivative=lambda m, x: 4 * _logistic(m, 2 * x) * _logistic(m, -2 * x),
        of_output=lambda m, y: (1 - y) * (1 + y),
    ),
    "relu": _RELU,
    "leaky_relu": Reference(
        value=lambda m, x, slope: m.where(x > 0, x, slope * x),
        derivative=lambda m, x, slope: m.where(x > 0, 1.0, slope),
        parameters=((0.25,), (-1.5,)),
    ),
    "elu": Reference(*_ELU, parameters=((0.5,), (2.5,), (-1.5,))),
    "selu": Reference(*_SELU),
    "celu": Reference(*_CELU, parameters=((0.5,), (3.0,), (-1.5,), (1e-12,), (1e20,))),
    "gelu": Reference(
        value=lambda m, x: m.where(x < -100, -100, x) * _normal_cdf(m, x),
        derivative=_gelu_derivative,
        zeros=(-0.7517915,),
    ),
    "gelu_tanh": Reference(_gelu_tanh, _gelu_tanh_derivative, zeros=(-0.7524614,)),
    "silu": Reference(
        value=lambda m, x: _from_below(m, x) * _logistic(m, x),
        derivative=lambda m, x: _logistic(m, x) * (1 + _bounded(m, x) * _logistic(m, -x)),
        zeros=(-1.2784645,),
    ),
    "mish": Reference(
        value=lambda m, x: _from_below(m, x) * _mish_parts(m, x)[0],
        derivative=lambda m, x: _mish_parts(m, x)[0] + _bounded(m, x) * _mish_parts(m, x)[1],
        zeros=(-1.1924312,),
    ),
    "softplus": Reference(
        value=_softplus,
        derivative=lambda m, x, beta, threshold: m.where(
            beta * x > threshold, 1.0, _logistic(m, beta * x)
        ),
        parameters=((2.0, 10.0), (0.25, 1.0), (1.5, 20.0), (-3.0, 20.0)),
    ),
    "softsign": Reference(
        value=lambda m, x: (
            _clamped(m, x, -1e40, 1e40) / (1 + m.absolute(_clamped(m, x, -1e40, 1e40)))
        ),
        derivative=lambda m, x: 1 / ((1 + m.absolute(x)) * (1 + m.absolute(x))),
    ),
    "hardtanh": Reference(
        value=lambda m, x, low, high: _clamped(m, x, low, high),
        derivative=_inside,
        parameters=((-0.5, 2.0), (-3.0, -1.0), (1.0, 1.0)),
    ),
    "relu6": Reference(
        value=lambda m, x: _clamped(m, x, 0, 6), derivative=lambda m, x: _inside(m, x, 0, 6)
    ),
    "hardsigmoid": Reference(
        value=lambda m, x: _clamped(m, x + 3, 0, 6) / 6,
        derivative=lambda m, x: _inside(m, x, -3, 3, m.number("1") / 6),
    ),
    "hardswish": Reference(
        value=lambda m, x: m.where(
            x > 3, x, _clamped(m, x, -3, 3) * (_clamped(m, x, -3, 3) + 3) / 6
        ),
        derivative=lambda m, x: m.where(x >= 3, 1, m.where(x <= -3, 0, (2 * x + 3) / 6)),
        zeros=(-1.5,),
    ),
    "logsigmoid": Reference(
        value=lambda m, x: (
            m.where(x > 0, 0 * _bounded(m, x), x) - m.log1p(m.exp(-m.absolute(_bounded(m, x))))
        ),
        derivative=lambda m, x: _logistic(m, -x),
    ),
    "squared_relu": Reference(
        value=lambda m, x: _positive(m, x) * _positive(m, x),
        derivative=lambda m, x: 2 * _positive(m, x),
    ),
}


def parameter_sets(row: Activation) -> list[Parameters]:
    """The default parameters first."""
    return [row.defaults(), *REFERENCES[row.name].parameters]


@dataclass(frozen=True)
class Exact:
    """Results as an unevaluated sum of two float64 numbers."""

    high: Floats
    low: Floats


def in_float64(formula: Formula, x: Tensor, parameters: Parameters) -> Exact:
    """A formula in float64: exact enough for results in float32."""
    wide = x.double().numpy()
    with np.errstate(all="ignore"):
        high = np.asarray(formula(ArrayVocabulary, wide, *parameters), dtype=np.float64)
    high = np.where(np.isnan(wide), np.nan, np.broadcast_to(high, wide.shape))
    return Exact(high, np.zeros_like(high))


def exactly(formula: Formula, x: Tensor, parameters: Parameters) -> Exact:
    """A formula with 100 bits."""
    high, low = [], []
    with mpmath.workprec(100):
        for number in x.double().tolist():
            result = (
                mpmath.mpf("nan")
                if number != number
                else mpmath.mpf(
                    formula(ExactVocabulary, mpmath.mpf(number), *map(mpmath.mpf, parameters))
                )
            )
            high.append(float(result))
            low.append(float(result - high[-1]) if mpmath.isfinite(high[-1]) else 0.0)
    return Exact(np.array(high), np.array(low))


def expected(formula: Formula, x: Tensor, parameters: Parameters) -> Exact:
    """What a kernel of x's dtype must compute. float32 kernels take parameters in float32."""
    if x.dtype == torch.float64:
        return exactly(formula, x, parameters)
    return in_float64(formula, x, tuple(float(np.float32(p)) for p in parameters))


VALUE_ULPS = 4.0
DERIVATIVE_ULPS = 8.0


def ulp_errors(got: Tensor, want: Exact) -> Floats:
    """|got - want| in units in the last place of the dtype at `want`; infinite for a NaN that is
    not wanted, or a number where NaN is."""
    info = torch.finfo(got.dtype)
    beyond = np.ldexp(1.0, np.frexp(info.max)[1]) if got.dtype != torch.float64 else np.inf
    high = np.clip(want.high, -beyond, beyond)
    result = got.double().numpy()
    finite = np.where(np.isfinite(high), high, info.max)
    exponent = np.frexp(np.maximum(np.abs(finite), info.tiny))[1] - 1
    exponent = np.minimum(exponent, np.frexp(info.max)[1] - 1)
    unit = np.ldexp(info.eps, exponent)
    with np.errstate(all="ignore"):
        # An infinite result stands for the first number that the dtype lacks.
        stands = np.where(np.isinf(result), np.copysign(beyond, result), result)
        error = np.abs((stands - high) - want.low) / unit
    error = np.where(stands == high, np.abs(want.low) / unit, error)
    too_large = np.abs(high) >= beyond
    error = np.where(too_large, np.where(stands == high, 0, np.inf), error)
    nan = np.isnan(want.high)
    return np.where(nan | np.isnan(result), np.where(nan & np.isnan(result), 0, np.inf), error)


def outside_bounds(
    got: Tensor, want: Exact, x: Tensor, ulps: float, zeros: tuple[float, ...] = ()
) -> npt.NDArray[np.bool_]:
    """Where a result breaks the contract: within `ulps`; in exponentially small tails a relative
    error of 1e-5 if that is more; around a zero of the derivative two units of 1 in the precision
    of the arithmetic (2^-22 in float32)."""
    at, result = x.double().numpy(), got.double().numpy()
    with np.errstate(all="ignore"):
        error = np.abs((result - want.high) - want.low)
        size = np.abs(want.high)
        extent = np.where(np.isfinite(at), np.maximum(np.abs(at), 1), 1)
        fine = ulp_errors(got, want) <= ulps
        fine |= (size < 2.0**-10 * extent) & (error <= 1e-5 * size)
        unit = np.finfo(np.float64 if got.dtype == torch.float64 else np.float32).eps
        for zero in zeros:
            fine |= (np.abs(at - zero) < 0.25) & (error <= 2 * unit)
    return ~fine


def describe(
    got: Tensor, want: Exact, x: Tensor, ulps: float, zeros: tuple[float, ...] = ()
) -> str:
    """Nothing if all is within the bounds, else how many are not and the worst."""
    outside = outside_bounds(got, want, x, ulps, zeros)
    if not outside.any():
        return ""
    errors = np.where(outside, np.maximum(ulp_errors(got, want), 1e-300), 0)
    worst = int(np.argmax(errors))
    return (
        f"{int(outside.sum())} of {outside.size}; worst at x={x[worst].item()!r}: "
        f"{got[worst].item()!r}, not {want.high[worst]!r} ({errors[worst]:.3g} ulp)"
    )


assert REFERENCES.keys() == TABLE.keys(), "every row of the table needs its reference"
