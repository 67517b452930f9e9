"""16-bit activations that are looked up: the bits of those that are computed."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from gradkern.activations import TABLE

DTYPES = [torch.bfloat16, torch.float16]
# A call of fewer elements computes.
COMPUTED = 4095


def every_value(dtype: torch.dtype) -> Tensor:
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


def in_parts(operator: Any, *tensors: Tensor, parameters: tuple[float, ...]) -> tuple[Tensor, ...]:
    """Of calls that are too small for a table."""
    parts = zip(*(t.split(COMPUTED) for t in tensors), strict=True)
    found = [operator(*part, *parameters) for part in parts]
    if isinstance(found[0], Tensor):
        return (torch.cat(found),)
    return tuple(torch.cat(outputs) for outputs in zip(*found, strict=True))


def in_one(operator: Any, *tensors: Tensor, parameters: tuple[float, ...]) -> tuple[Tensor, ...]:
    found = operator(*tensors, *parameters)
    return (found,) if isinstance(found, Tensor) else tuple(found)


def assert_same(got: tuple[Tensor, ...], want: tuple[Tensor, ...]) -> None:
    for mine, theirs in zip(got, want, strict=True):
        same = mine.view(torch.int16) == theirs.view(torch.int16)
        assert bool((same | (mine.isnan() & theirs.isnan())).all())


@pytest.mark.parametrize("name", sorted(TABLE))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_value_has_the_same_bits(name: str, dtype: torch.dtype) -> None:
    row = TABLE[name]
    operators = torch.ops.gradkern
    # Eight times: after four of them there is a table, and still other parts than its first.
    x = every_value(dtype).repeat(8)
    grad = torch.linspace(-3, 3, x.numel()).to(dtype)
    for parameters in {row.defaults(), tuple(0.75 * p for p in row.defaults())}:
        passes = [
            (getattr(operators, name).default, (x,)),
            (getattr(operators, f"{name}_derivative").default, (x,)),
            (getattr(operators, f"{name}_with_derivative").default, (x,)),
            (getattr(operators, f"{name}_backward").default, (grad, x)),
            (getattr(operators, f"{name}_second").default, (grad, x)),
        ]
        for operator, tensors in passes:
            want = in_parts(operator, *tensors, parameters=parameters)
            assert_same(in_one(operator, *tensors, parameters=parameters), want)
            # In the middle of memory, and not a multiple of four elements.
            odd = tuple(t[5:-6] for t in tensors)
            assert_same(in_one(operator, *odd, parameters=parameters), tuple(w[5:-6] for w in want))


def test_in_place() -> None:
    x = every_value(torch.bfloat16).repeat(8)
    want = torch.ops.gradkern.gelu(x)
    torch.ops.gradkern.gelu_(x)
    assert_same((x,), (want,))


def test_many_parameters_and_threads() -> None:
    """More of both than there are tables."""
    x = every_value(torch.bfloat16).repeat(8)
    alphas = [0.5 + 0.03125 * i for i in range(20)]
    want = {
        a: in_parts(torch.ops.gradkern.elu.default, x, parameters=(a,))[0][:65536] for a in alphas
    }
    wrong: list[float] = []

    def work(order: list[float]) -> None:
        for alpha in order:
            got = torch.ops.gradkern.elu(x, alpha)[-65536:]
            same = got.view(torch.int16) == want[alpha].view(torch.int16)
            if not bool((same | got.isnan()).all()):
                wrong.append(alpha)

    threads = [threading.Thread(target=work, args=(o,)) for o in (alphas, alphas[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
