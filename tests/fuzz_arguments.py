"""Random arguments for every public function of norms, statistics and clipping.

A case either returns what the float64 reference says, or raises a Python exception and leaves
every gradient as it was. Each case is made from its seed and number alone. As a script, for
instance under AddressSanitizer:

    python tests/fuzz_arguments.py --count 10000 --seed 1
    python tests/fuzz_arguments.py --seed 1 --first 4711 --count 1 --verbose   # one case again
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from exact_reference import (
    ALL_DTYPES,
    COMPLEX_DTYPES,
    REAL_DTYPES,
    SCALING_ULPS,
    components,
    exact_coefficient,
    exact_norm,
    magnitudes,
    norm_of_magnitudes,
    real_dtype,
    ulp,
)
from side_by_side import parameters_with, storage_bytes
from torch import Tensor

import gradkern
import gradkern.numpy as gknp

INF = math.inf
NAN = math.nan

# What a caller may be told. Anything else (SystemError, IndexError, ...) is a fault of ours.
EXPECTED_ERRORS = (TypeError, ValueError, RuntimeError, AttributeError)

INTEGERS = (torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool)
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
ORDERS: list[Any] = [2.0] * 6 + [0, 0.5, 1, 3, 3.5, 7, INF, -INF, -1, -2.5, NAN, "inf", "2", True]
MAX_NORMS: list[Any] = [
    1.0,
    0.5,
    10.0,
    1e-3,
    1e6,
    0.0,
    -1.0,
    NAN,
    INF,
    -INF,
    "1.0",
    torch.tensor(2.0),
]
NOT_NUMBERS: list[Any] = ["x", None, 1j, [1.0], torch.ones(2), object()]


@dataclass
class Case:
    """One call, what it must not touch if it raises, and how to judge what it returns.

    `must_raise` is None where both are right, as long as nothing breaks.
    """

    function: str
    call: Callable[[], Any]
    judge: Callable[[Any], None]
    must_raise: bool | None = False
    gradients: list[Any] = field(default_factory=list)
    arguments: str = ""


class Generator:
    """Makes one case from one random stream."""

    def __init__(self, seed: int, number: int) -> None:
        self.random = random.Random(f"{seed}/{number}")
        self.torch = torch.Generator().manual_seed(self.random.randrange(2**62))

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def shape(self) -> tuple[int, ...]:
        pick = self.random.random()
        if pick < 0.1:
            return self.random.choice([(), (1,), (0,), (1, 1), (3, 0), (0, 3), (2, 0, 3)])
        if pick < 0.5:
            return (self.random.choice([2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 100, 257]),)
        if pick < 0.53:
            return (self.random.randrange(1000, 40_000),)
        dimensions = self.random.choice([2, 2, 3, 4])
        return tuple(self.random.randrange(1, 9) for _ in range(dimensions))

    def values(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Normal values of one magnitude, sometimes with zeros, NaN or infinities."""
        real = real_dtype(dtype)
        parts = (*shape, 2) if dtype.is_complex else shape
        values = torch.randn(parts, generator=self.torch, dtype=torch.float64)
        if self.chance(0.3):
            exponent = {torch.float32: 30, torch.bfloat16: 30, torch.float16: 3, torch.float64: 30}
            values *= 10.0 ** self.random.uniform(-exponent[real], exponent[real])
        if self.chance(0.3):
            values *= torch.rand(parts, generator=self.torch) < self.random.random()
        if self.chance(0.04) and values.numel():
            place = self.random.randrange(values.numel())
            values.view(-1)[place] = self.random.choice([NAN, INF, -INF])
        values = values.to(real)
        return torch.view_as_complex(values) if dtype.is_complex else values

    def tensor(self, dtype: torch.dtype) -> Tensor:
        """A tensor in one of many layouts; each element has its own memory."""
        base = self.values(self.shape(), dtype)
        layout = self.random.randrange(7)
        if layout == 1 and base.dim() >= 2:
            return base.transpose(0, self.random.randrange(1, base.dim()))
        if layout == 2 and base.dim() >= 1:
            return torch.stack([base, base], dim=-1)[..., 0]
        if layout == 3:
            offset = self.random.randrange(1, 5)
            buffer = torch.cat([torch.zeros(offset, dtype=dtype), base.reshape(-1)])
            return buffer[offset:].view(base.shape)
        if layout == 4 and base.dim() == 4:
            return base.contiguous(memory_format=torch.channels_last)
        if layout == 5 and base.dim() >= 1 and base.shape[0] >= 2:
            return base[1:]
        if layout == 6 and base.dim() >= 2:
            return (
                base.permute(*reversed(range(base.dim())))
                .contiguous()
                .permute(*reversed(range(base.dim())))
            )
        return base

    def tensors(self, dtypes: tuple[torch.dtype, ...] = ALL_DTYPES) -> list[Tensor]:
        count = self.random.choice([1, 1, 2, 3, 5, 20])
        one = self.random.choice(dtypes)
        mixed = self.chance(0.3)
        return [self.tensor(self.random.choice(dtypes) if mixed else one) for _ in range(count)]

    def case(self) -> Case:
        maker = self.random.choice(MAKERS)
        return maker(self)


# --- judges -------------------------------------------------------------------------------------


def agree(got: float, right: float, tolerance: float, what: str) -> None:
    if math.isnan(right) or math.isinf(right) or math.isnan(got) or math.isinf(got):
        assert got == right or (math.isnan(got) and math.isnan(right)), (
            f"{what}: {got}, not {right}"
        )
        return
    assert abs(got - right) <= tolerance, f"{what}: {got}, not {right} (within {tolerance})"


def relative_error(order: float) -> float:
    """Of a norm in float64: a sum of rounded powers; the root multiplies its error by 1/p."""
    if order in (0, 1, 2) or math.isinf(order):
        return 1e-14
    return 1e-13 * max(1.0, 1 / abs(order)) if not math.isnan(order) else 0.0


def judge_total(total: Tensor, tensors: list[Tensor], order: float) -> None:
    right = exact_norm(tensors, order)
    dtype = real_dtype(total.dtype)
    promoted = real_dtype(tensors[0].dtype)
    for tensor in tensors:
        promoted = torch.promote_types(promoted, real_dtype(tensor.dtype))
    assert total.dtype == promoted, f"{total.dtype}, not {promoted}"
    assert total.shape == ()
    assert total.device == tensors[0].device
    info = torch.finfo(dtype)
    if dtype != torch.float64 and abs(right) >= info.max * (1 + info.eps / 4):
        right = INF
    finite = right if math.isfinite(right) else 0.0
    unit = float(ulp(np.array([finite]), dtype)[0]) if dtype != torch.float64 else 0.0
    agree(total.item(), right, unit + relative_error(order) * abs(finite), f"norm of order {order}")


def judge_scaled(
    gradient: Tensor, expected: np.ndarray, factor: float | np.ndarray, order: float = 2.0
) -> None:
    """Asserts that a gradient is the expected product, to the rounding of its storage.

    Where float32 must hold a factor below its normal numbers, the factor has fewer digits.
    """
    dtype = real_dtype(gradient.dtype)
    got = components(gradient)
    with np.errstate(all="ignore"):
        if dtype != torch.float64:
            # what the storage cannot hold becomes infinite
            top = torch.finfo(dtype).max * (1 + torch.finfo(dtype).eps / 4)
            expected = np.where(np.abs(expected) >= top, np.copysign(INF, expected), expected)
        finite = np.isfinite(expected)
        allowed = SCALING_ULPS[dtype] * ulp(np.where(finite, expected, 0), dtype)
        relative = relative_error(order)
        if dtype != torch.float64:
            relative = relative + np.minimum(2.0**-149 / np.abs(factor), 1.0) * (
                np.abs(factor) < 2.0**-126
            )
        allowed = allowed + np.nan_to_num(relative * np.abs(expected), posinf=0.0)
        alike = (np.isnan(got) == np.isnan(expected)) & np.where(
            np.isinf(expected), got == expected, np.isfinite(got) | np.isnan(expected)
        )
        close = np.abs(np.where(finite, got - expected, 0)) <= allowed
    wrong = ~(alike & close)
    assert not wrong.any(), f"{got[wrong][:3]} where {expected[wrong][:3]} are right"


def judge_statistics(values: np.ndarray, tensors: list[Tensor]) -> None:
    assert values.shape == (len(tensors), 8)
    for row, tensor in zip(values.tolist(), tensors, strict=True):
        elements = components(tensor)
        finite = elements[np.isfinite(elements)]
        size = np.abs(finite)
        count, sum_, sum_squares, abs_max, abs_min, zeros, nans, infs = row
        assert count == elements.size
        assert zeros == (elements == 0).sum()
        assert nans == np.isnan(elements).sum()
        assert infs == np.isinf(elements).sum()
        assert abs_max == size.max(initial=0.0)
        assert abs_min == size[size > 0].min(initial=INF)
        agree(sum_, math.fsum(finite), 1e-14 * size.sum(), "sum")
        right = math.fsum(np.square(finite))
        agree(sum_squares, right, 1e-14 * right, "sum of squares")


def judge_nothing(result: Any) -> None:
    pass


# --- what can be wrong with a list of tensors ---------------------------------------------------


def spoil(g: Generator, tensors: list[Any], writes: bool) -> tuple[bool | None, str]:
    """Puts something into a list that does not belong there; returns whether it must be refused."""
    place = g.random.randrange(len(tensors) + 1)
    kind = g.random.choice(
        ["integer", "float8", "expanded", "overlap", "sparse", "meta", "no tensor", "view", "twice"]
    )
    if kind == "integer":
        tensors.insert(place, torch.ones(g.random.randrange(4), dtype=g.random.choice(INTEGERS)))
        return True, kind
    if kind == "float8":
        tensors.insert(place, torch.ones(3).to(g.random.choice(FLOAT8)))
        return True, kind
    if kind == "sparse":
        index = torch.tensor([[0, 2]])
        tensors.insert(
            place, torch.sparse_coo_tensor(index, torch.ones(2), (4,), check_invariants=True)
        )
        return None, kind
    if kind == "meta":
        tensors.insert(place, torch.empty(g.random.randrange(5), device="meta"))
        return None, kind
    if kind == "no tensor":
        tensors.insert(place, g.random.choice([None, 3, "weight", [torch.ones(2)]]))
        return None if tensors[place] is None else True, kind
    if kind == "expanded":
        shape = g.random.choice([(4,), (2, 3), (3, 1, 2)])
        tensors.insert(place, torch.full((1,) * len(shape), 7.0).expand(shape))
        return True if writes else None, kind
    if kind == "overlap":
        size, stride = g.random.choice([((3, 3), (1, 1)), ((4, 5), (3, 1))])
        tensors.insert(place, torch.as_strided(torch.arange(30.0) + 5, size, stride))
        return None, kind
    # Two that share memory are not wrong; each is counted, and changed, once for each time.
    other = tensors[place % len(tensors)] if tensors else torch.ones(3)
    if not isinstance(other, Tensor) or kind == "twice":
        tensors.insert(place, other)
    else:
        tensors.insert(place, other[..., :1] if other.dim() else other.view(1))
    return None, kind


def describe(tensors: list[Any]) -> str:
    return ", ".join(
        f"{t.dtype}{tuple(t.shape)}"
        + (f"/{t.stride()}" if t.layout == torch.strided else "/sparse")
        if isinstance(t, Tensor)
        else repr(t)
        for t in tensors
    )


def empty_without_identity(tensors: list[Tensor], order: float) -> bool:
    return (order < 0 or order == INF) and any(t.numel() == 0 for t in tensors)


@dataclass
class Input:
    """A random list of tensors, and whether a function must refuse it."""

    tensors: list[Any]
    must_raise: bool | None
    checkable: bool  # whether the reference applies: only CPU tensors, none shared
    text: str


def tensors_for(g: Generator, writes: bool, dtypes: tuple[torch.dtype, ...] = ALL_DTYPES) -> Input:
    tensors: list[Any] = [] if g.chance(0.03) else g.tensors(dtypes)
    must_raise: bool | None = False
    checkable, kind = True, "plain"
    if tensors and g.chance(0.04):
        tensors = [torch.empty_like(t, device="meta") for t in tensors]
        must_raise, checkable, kind = None, False, "all meta"
    elif g.chance(0.25):
        must_raise, kind = spoil(g, tensors, writes)
        checkable = False
    return Input(tensors, must_raise, checkable, f"{kind}: {describe(tensors)}")


def parameters_for(tensors: list[Any]) -> list[Any]:
    """Parameters with these gradients; what is no tensor stands for itself."""
    parameters = [t if not isinstance(t, Tensor) else parameters_with([t])[0] for t in tensors]
    for i, parameter in enumerate(parameters):
        if parameter is None:
            parameters[i] = torch.nn.Parameter(torch.ones(2))  # without a gradient
    return parameters


def wrapped(g: Generator, items: list[Any]) -> Any:
    pick = g.random.randrange(5)
    if pick == 0 and len(items) == 1:
        return items[0]
    return [list, tuple, iter, lambda x: (y for y in x), list][pick](items)


# --- one maker for each function ----------------------------------------------------------------


def make_total_norm(g: Generator) -> Case:
    given = tensors_for(g, writes=False)
    order = g.random.choice(ORDERS) if g.chance(0.95) else g.random.choice(NOT_NUMBERS)
    strict = g.chance(0.2)
    number = as_number(order)
    must_raise = given.must_raise
    if number is None or (given.checkable and empty_without_identity(given.tensors, number)):
        must_raise = True
    elif given.checkable and given.tensors and strict:
        must_raise = not math.isfinite(exact_norm(given.tensors, number))
    if g.chance(0.02):
        given.tensors, must_raise = g.random.choice([None, 3, torch.nn.ReLU()]), True
    argument = given.tensors if must_raise and not isinstance(given.tensors, list) else None

    def judge(total: Tensor) -> None:
        if not given.tensors:
            assert total.item() == 0
            assert total.dtype == torch.float32
        elif given.checkable:
            if all(t.numel() == 0 for t in given.tensors) and math.isnan(number or 0.0):
                return  # native says 0 or NaN, by the number of tensors
            judge_total(total, given.tensors, number or 0.0)

    if argument is None and isinstance(given.tensors, list):
        argument = wrapped(g, given.tensors)
    return Case(
        "get_total_norm",
        lambda: gradkern.get_total_norm(argument, order, strict),
        judge,
        must_raise,
        [t for t in given.tensors if isinstance(t, Tensor)]
        if isinstance(given.tensors, list)
        else [],
        f"{given.text}; order={order!r}, error_if_nonfinite={strict}",
    )


def as_number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def make_clip_norm(g: Generator) -> Case:
    with_stats = g.chance(0.4)
    given = tensors_for(g, writes=True)
    order = g.random.choice(ORDERS) if g.chance(0.95) else g.random.choice(NOT_NUMBERS)
    max_norm = g.random.choice(MAX_NORMS) if g.chance(0.95) else g.random.choice(NOT_NUMBERS)
    strict = g.chance(0.15)
    p, limit = as_number(order), as_number(max_norm)
    must_raise = given.must_raise
    total = 0.0
    if p is None or limit is None:
        must_raise = True
    elif given.checkable and given.tensors:
        if empty_without_identity(given.tensors, p):
            must_raise = True
        else:
            total = exact_norm(given.tensors, p)
            must_raise = strict and not math.isfinite(total)
    elif not given.tensors and with_stats:
        must_raise = None
    before = [components(t) for t in given.tensors] if given.checkable else []
    originals = [t.clone() for t in given.tensors] if given.checkable else []
    parameters = parameters_for(given.tensors)
    argument = wrapped(g, parameters)
    name = "clip_grad_norm_with_stats_" if with_stats else "clip_grad_norm_"

    def judge(result: Any) -> None:
        norm = result[0] if with_stats else result
        if not given.tensors:
            assert norm.item() == 0
            return
        if not given.checkable or p is None or limit is None:
            return
        if math.isnan(p) and all(t.numel() == 0 for t in given.tensors):
            return
        judge_total(norm, originals, p)
        if with_stats:
            judge_statistics(result[1].values.numpy(), originals)
        factor = exact_coefficient(total, limit)
        for tensor, old in zip(given.tensors, before, strict=True):
            with np.errstate(all="ignore"):
                judge_scaled(tensor, old * factor, factor, p)
            assert tensor._version > 0

    return Case(
        name,
        lambda: getattr(gradkern, name)(argument, max_norm, order, strict),
        judge,
        must_raise,
        [t for t in given.tensors if isinstance(t, Tensor)],
        f"{given.text}; max_norm={max_norm!r}, order={order!r}, error_if_nonfinite={strict}",
    )


def make_clip_with_norm(g: Generator) -> Case:
    given = tensors_for(g, writes=True)
    max_norm = g.random.choice(MAX_NORMS) if g.chance(0.95) else g.random.choice(NOT_NUMBERS)
    total: Any = torch.tensor(
        g.random.choice([5.0, 0.5, 0.0, 1e-7, -3.0, NAN, INF]),
        dtype=g.random.choice(REAL_DTYPES),
    )
    limit = as_number(max_norm)
    must_raise = given.must_raise
    if g.chance(0.15):
        total = g.random.choice([5.0, None, "5", torch.ones(1), torch.ones(2), torch.empty(0)])
        must_raise = True if given.tensors else None
    if limit is None:
        must_raise = True
    before = [components(t) for t in given.tensors] if given.checkable else []
    argument = wrapped(g, parameters_for(given.tensors))

    def judge(result: Any) -> None:
        assert result is None
        if (
            given.checkable
            and isinstance(total, Tensor)
            and total.numel() == 1
            and limit is not None
        ):
            factor = exact_coefficient(total.item(), limit)
            for tensor, old in zip(given.tensors, before, strict=True):
                with np.errstate(all="ignore"):
                    judge_scaled(tensor, old * factor, factor)

    return Case(
        "clip_grads_with_norm_",
        lambda: gradkern.clip_grads_with_norm_(argument, max_norm, total),
        judge,
        must_raise,
        [t for t in given.tensors if isinstance(t, Tensor)],
        f"{given.text}; max_norm={max_norm!r}, total_norm={total!r}",
    )


def make_clip_value(g: Generator) -> Case:
    given = tensors_for(g, writes=True, dtypes=REAL_DTYPES)
    bounds: list[Any] = [0.5, 1.0, 0.0, -1.0, INF, NAN, 1e-3, "0.5", torch.tensor(1.0)]
    bound = g.random.choice(bounds) if g.chance(0.95) else g.random.choice(NOT_NUMBERS)
    limit = as_number(bound)
    must_raise = given.must_raise
    if limit is None or not given.tensors:
        must_raise = True
    elif math.isnan(limit) and must_raise:
        must_raise = None  # native fills with NaN what it cannot compare, float8 for one
    if given.tensors and g.chance(0.05):
        given.tensors.append(g.tensor(g.random.choice(COMPLEX_DTYPES)))
        must_raise, given.checkable = True, False
    before = [components(t) for t in given.tensors] if given.checkable else []
    argument = wrapped(g, parameters_for(given.tensors))

    def judge(result: Any) -> None:
        assert result is None
        if not given.checkable or limit is None:
            return
        for tensor, old in zip(given.tensors, before, strict=True):
            rounded = components(torch.tensor(limit, dtype=torch.float64).to(tensor.dtype))[0]
            # as native: first from below, then from above
            right = np.minimum(np.maximum(old, -rounded), rounded)
            right = np.where(np.isnan(old), NAN, right)
            assert np.array_equal(components(tensor), right, equal_nan=True)

    return Case(
        "clip_grad_value_",
        lambda: gradkern.clip_grad_value_(argument, bound),
        judge,
        must_raise,
        [t for t in given.tensors if isinstance(t, Tensor)],
        f"{given.text}; clip_value={bound!r}",
    )


def make_per_tensor(g: Generator) -> Case:
    given = tensors_for(g, writes=True)
    order = g.random.choice(ORDERS) if g.chance(0.95) else g.random.choice(NOT_NUMBERS)
    max_norm = g.random.choice([1.0, 0.5, 10.0, 1e-3, 1e6, 0.0, "1.0"])
    if g.chance(0.05):
        max_norm = g.random.choice(NOT_NUMBERS)
    p, limit = as_number(order), as_number(max_norm)
    must_raise = given.must_raise
    refused = p is None or limit is None
    if refused or (given.checkable and empty_without_identity(given.tensors, p or 0.0)):
        must_raise = True
    elif not given.tensors or (p is not None and (p < 0 or math.isnan(p))):
        must_raise = None
    before = [components(t) for t in given.tensors] if given.checkable else []
    sizes = [magnitudes(t) for t in given.tensors] if given.checkable else []
    argument = wrapped(g, parameters_for(given.tensors))

    def judge(norms: Tensor) -> None:
        if not given.checkable or p is None or limit is None or math.isnan(p):
            return
        assert norms.shape == (len(given.tensors),)
        assert norms.dtype == torch.float64
        for norm, tensor, old, size in zip(norms, given.tensors, before, sizes, strict=True):
            right = norm_of_magnitudes(size, p)
            finite = right if math.isfinite(right) else 0.0
            agree(norm.item(), right, relative_error(p) * finite, f"norm of order {p}")
            with np.errstate(all="ignore"):
                factor = 1.0 if right <= limit else float(np.float64(limit) / np.float64(right))
                judge_scaled(tensor, old * factor, factor, p)

    return Case(
        "clip_grad_norm_per_tensor_",
        lambda: gradkern.clip_grad_norm_per_tensor_(argument, max_norm, order),
        judge,
        must_raise,
        [t for t in given.tensors if isinstance(t, Tensor)],
        f"{given.text}; max_norm={max_norm!r}, order={order!r}",
    )


def unit_norms(tensor: Tensor, order: float) -> np.ndarray:
    """timm's unitwise_norm in extended precision: along all dimensions but the first."""
    sizes = magnitudes(tensor)
    rows = sizes.reshape(tensor.shape[0], -1) if tensor.dim() > 1 else sizes.reshape(1, -1)
    if rows.shape[1] == 0:
        return np.zeros(rows.shape[0])
    largest = rows.max(axis=1)
    if math.isinf(order):
        return largest.astype(np.float64)
    with np.errstate(all="ignore"):
        scale = np.where(np.isfinite(largest) & (largest > 0), largest, 1)
        total = ((rows / scale[:, None]) ** np.longdouble(order)).sum(axis=1)
        return (scale * total ** (1 / np.longdouble(order))).astype(np.float64)


def make_adaptive(g: Generator) -> Case:
    given = tensors_for(g, writes=True)
    order: Any = g.random.choice([2.0, 2.0, 1, 3.5, INF])
    clip_factor: Any = g.random.choice([0.01, 0.1, 10.0, 1e-4])
    eps: Any = g.random.choice([1e-3, 1e-2, 1e-6])
    must_raise = given.must_raise
    if g.chance(0.08):
        wrong = g.random.choice(NOT_NUMBERS)
        order, clip_factor, eps = g.random.choice(
            [(wrong, clip_factor, eps), (order, wrong, eps), (order, clip_factor, wrong)]
        )
        must_raise = True if given.tensors else None
    if not given.tensors:
        must_raise = None if must_raise else False
    p = as_number(order)
    if given.checkable and p == INF and any(t.numel() == 0 for t in given.tensors):
        must_raise = True if must_raise else None
    before = [components(t) for t in given.tensors] if given.checkable else []
    originals = [t.clone() for t in given.tensors] if given.checkable else []
    parameters = parameters_for(given.tensors)
    for parameter in parameters:
        if isinstance(parameter, Tensor) and parameter.dtype in ALL_DTYPES:
            weights = g.values(tuple(parameter.shape), parameter.dtype).nan_to_num(0, 1, -1)
            if not parameter.is_meta:
                parameter.detach().copy_(weights)
    argument = wrapped(g, parameters)

    def judge(result: Any) -> None:
        assert result is None
        if not given.checkable or p is None:
            return
        for parameter, tensor, gradient, old in zip(
            parameters, given.tensors, originals, before, strict=True
        ):
            if tensor.numel() == 0:
                continue
            with np.errstate(all="ignore"):
                max_norm = np.maximum(unit_norms(parameter.detach(), p), eps) * clip_factor
                norm = unit_norms(gradient, p)
                factor = np.where(norm < max_norm, 1.0, max_norm / np.maximum(norm, 1e-6))
                if (np.abs(norm / max_norm - 1) < 1e-12).any():
                    return  # either side of the threshold is right
                per_element = np.repeat(factor, old.size // factor.size)
                judge_scaled(tensor, old * per_element, per_element, p)

    return Case(
        "adaptive_clip_grad_",
        lambda: gradkern.adaptive_clip_grad_(argument, clip_factor, eps, order),
        judge,
        must_raise,
        [t for t in given.tensors if isinstance(t, Tensor)],
        f"{given.text}; clip_factor={clip_factor!r}, eps={eps!r}, order={order!r}",
    )


def make_stats(g: Generator) -> Case:
    given = tensors_for(g, writes=False)
    names: Any = None
    must_raise = given.must_raise
    if g.chance(0.3):
        names = [f"t{i}" for i in range(len(given.tensors))]
        if g.chance(0.3):
            names = [*names, "one more"]
            must_raise = True
    argument = wrapped(g, given.tensors)

    def judge(stats: gradkern.TensorStats) -> None:
        if given.checkable:
            judge_statistics(stats.values.numpy(), given.tensors)
            for derived in (stats.norm, stats.mean, stats.std, stats.rms, stats.zero_fraction):
                assert derived.shape == (len(given.tensors),)

    return Case(
        "tensor_stats",
        lambda: gradkern.tensor_stats(argument, names),
        judge,
        must_raise,
        [t for t in given.tensors if isinstance(t, Tensor)],
        f"{given.text}; names={names!r}",
    )


def make_named_norms(g: Generator) -> Case:
    grads = g.chance(0.5)
    given = tensors_for(g, writes=False)
    order = g.random.choice(ORDERS) if g.chance(0.95) else g.random.choice(NOT_NUMBERS)
    p = as_number(order)
    must_raise = given.must_raise
    if p is None or p < 0 or math.isnan(p):
        must_raise = True
    elif given.checkable and empty_without_identity(given.tensors, p):
        must_raise = None
    named: Any = {str(i): t for i, t in enumerate(given.tensors)}
    if grads:
        named = {
            name: parameters_with([t])[0] if isinstance(t, Tensor) else t
            for name, t in named.items()
        }
    if g.chance(0.5):
        named = list(named.items())

    def judge(table: gradkern.NormTable) -> None:
        if not given.checkable or p is None:
            return
        assert table.names == tuple(str(i) for i in range(len(given.tensors)))
        for name, tensor in zip(table, given.tensors, strict=True):
            right = norm_of_magnitudes(magnitudes(tensor), p) if tensor.numel() else 0.0
            finite = right if math.isfinite(right) else 0.0
            agree(table[name].item(), right, relative_error(p) * finite, f"norm of order {p}")

    function = gradkern.grad_norms if grads else gradkern.param_norms
    return Case(
        "grad_norms" if grads else "param_norms",
        lambda: function(named, order),
        judge,
        must_raise,
        [t for t in given.tensors if isinstance(t, Tensor)],
        f"{given.text}; order={order!r}",
    )


# --- NumPy --------------------------------------------------------------------------------------


def array_of(g: Generator) -> np.ndarray:
    dtype = g.random.choice([torch.float32, torch.float32, torch.float64, torch.float16])
    array = g.tensor(dtype).numpy()
    pick = g.random.randrange(6)
    if pick == 0:
        return array[::-1] if array.ndim else array
    if pick == 1:
        return np.asfortranarray(array)
    if pick == 2 and array.size:
        raw = np.zeros(array.nbytes + 1, np.uint8)
        unaligned = raw[1:].view(array.dtype).reshape(array.shape)
        unaligned[...] = array
        return unaligned
    return array


def make_numpy(g: Generator) -> Case:
    arrays: list[Any] = [array_of(g) for _ in range(g.random.choice([0, 1, 1, 2, 5]))]
    must_raise: bool | None = False
    checkable = True
    inplace = g.chance(0.5)
    function = g.random.choice(
        ["total_norm", "tensor_stats", "clip_by_global_norm", "clip_by_value"]
    )
    writes = inplace and function.startswith("clip")
    place = g.random.randrange(len(arrays) + 1)
    kind = "plain"
    if g.chance(0.25):
        checkable = False
        kind = g.random.choice(
            ["integer", "swapped", "object", "none", "read-only", "broadcast", "twice"]
        )
        if kind == "integer":
            arrays.insert(place, np.ones(3, g.random.choice([np.int32, np.bool_, np.complex64])))
            must_raise = True
        elif kind == "swapped":
            arrays.insert(place, np.ones(3, ">f4"))
            must_raise = True
        elif kind == "object":
            arrays.insert(place, np.array([None, "x"], object))
            must_raise = True
        elif kind == "none":
            arrays.insert(place, g.random.choice([None, 3, "x", [1.0], torch.ones(2)]))
            must_raise = True
        elif kind == "read-only":
            locked = np.ones(4, np.float32)
            locked.flags.writeable = False
            arrays.insert(place, locked)
            must_raise = writes
        elif kind == "broadcast":
            arrays.insert(place, np.broadcast_to(np.ones(1, np.float32), (3,)))
            must_raise = writes
        elif arrays:
            arrays.insert(place, arrays[place % len(arrays)])
            must_raise = None
    order = g.random.choice(ORDERS)
    limit = g.random.choice([1.0, 0.5, 1e6, 0.0, -1.0, INF])
    p = float(order)
    needs_elements = function in ("total_norm", "clip_by_global_norm") and (p < 0 or p == INF)
    if needs_elements and any(isinstance(a, np.ndarray) and a.size == 0 for a in arrays):
        must_raise = True
    before = [a.astype(np.float64) for a in arrays] if checkable else []
    sizes = [np.abs(a.reshape(-1).astype(np.longdouble)) for a in arrays] if checkable else []

    def total() -> float:
        if p == 0:
            return float(sum(bool((size != 0).any()) for size in sizes))
        return norm_of_magnitudes(np.concatenate(sizes), p) if sizes else 0.0

    def judge(result: Any) -> None:
        if not checkable:
            return
        if function == "tensor_stats":
            if arrays:
                originals = [torch.from_numpy(np.array(a)) for a in arrays]
                judge_statistics(np.stack(list(result.values()), axis=1), originals)
            return
        if function == "clip_by_value":
            for got, array, old in zip(result, arrays, before, strict=True):
                with np.errstate(over="ignore"):
                    rounded = float(array.dtype.type(limit))
                right = np.minimum(np.maximum(old, -rounded), rounded)
                right = np.where(np.isnan(old), NAN, right)
                assert np.array_equal(got.astype(np.float64), right, equal_nan=True)
                assert (got is array) == inplace
            return
        norm = result if function == "total_norm" else result[1]
        if math.isnan(p) and all(size.size == 0 for size in sizes):
            return
        finite = total() if math.isfinite(total()) else 0.0
        agree(norm, total(), relative_error(p) * finite, f"norm of order {p}")
        if function == "clip_by_global_norm":
            factor = exact_coefficient(total(), limit)
            for got, array, old in zip(result[0], arrays, before, strict=True):
                with np.errstate(all="ignore"):
                    judge_scaled(
                        torch.from_numpy(np.array(got)), old.reshape(-1) * factor, factor, p
                    )
                assert (got is array) == inplace
                if not inplace:
                    assert np.array_equal(array.astype(np.float64), old, equal_nan=True)

    calls: dict[str, Callable[[], Any]] = {
        "total_norm": lambda: gknp.total_norm(arrays, order),
        "tensor_stats": lambda: gknp.tensor_stats(arrays),
        "clip_by_global_norm": lambda: gknp.clip_by_global_norm(
            arrays, limit, order, inplace=inplace
        ),
        "clip_by_value": lambda: gknp.clip_by_value(arrays, limit, inplace=inplace),
    }
    text = ", ".join(
        f"{a.dtype}{a.shape}/{a.strides}" if isinstance(a, np.ndarray) else repr(a) for a in arrays
    )
    return Case(
        f"numpy.{function}",
        calls[function],
        judge,
        must_raise,
        [a for a in arrays if isinstance(a, np.ndarray)],
        f"{kind}: {text}; order={order!r}, limit={limit!r}, inplace={inplace}",
    )


MAKERS: list[Callable[[Generator], Case]] = [
    make_total_norm,
    make_clip_norm,
    make_clip_norm,
    make_clip_with_norm,
    make_clip_value,
    make_per_tensor,
    make_adaptive,
    make_stats,
    make_named_norms,
    make_numpy,
]


# --- running ------------------------------------------------------------------------------------


def contents(gradient: Any) -> bytes:
    if isinstance(gradient, np.ndarray):
        return gradient.tobytes() if gradient.dtype != object else b""
    return storage_bytes(gradient)


def run_case(seed: int, number: int) -> str | None:
    """Runs one case; returns what is wrong with it, or None."""
    case = Generator(seed, number).case()
    where = f"case {number} of seed {seed}: {case.function}({case.arguments})"
    before = [contents(gradient) for gradient in case.gradients]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = case.call()
    except EXPECTED_ERRORS as error:
        if [contents(gradient) for gradient in case.gradients] != before:
            return f"{where}\n  raised {error!r} and changed a gradient"
        if case.must_raise is False:
            return f"{where}\n  refused: {error!r}"
        if not str(error).strip():
            return f"{where}\n  raised {type(error).__name__} without a message"
        return None
    except Exception as error:
        return f"{where}\n  raised {error!r}, which says nothing to a caller"
    if case.must_raise:
        return f"{where}\n  accepted, where it must raise"
    try:
        case.judge(result)
    except AssertionError as error:
        return f"{where}\n  {error}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs random argument combinations.")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--verbose", action="store_true", help="print each case before it runs")
    options = parser.parse_args()
    wrong = 0
    for number in range(options.first, options.first + options.count):
        if options.verbose:
            case = Generator(options.seed, number).case()
            print(f"case {number}: {case.function}({case.arguments})", flush=True)
        try:
            fault = run_case(options.seed, number)
        except Exception:
            fault = f"case {number} of seed {options.seed}\n{traceback.format_exc()}"
        if fault is not None:
            wrong += 1
            print(fault, flush=True)
    print(f"{options.count} cases, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
