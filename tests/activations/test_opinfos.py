"""torch's own sample inputs (OpInfo) for the functions that torch has: ours against torch's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from table_rows import function, name
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo, SampleInput

import gradkern
from gradkern.activations import TABLE

_NAMES = {f"nn.functional.{row}": row for row in TABLE} | {"sigmoid": "sigmoid", "tanh": "tanh"}
INFOS = [info for info in op_db if info.name in _NAMES and info.variant_test_name != "out"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def ours(info: OpInfo) -> Any:
    if _NAMES[info.name] == "gelu":
        return gradkern.functional.gelu
    return function(TABLE[_NAMES[info.name]])


def samples(
    info: OpInfo, dtype: torch.dtype, grad: bool, contiguous: bool
) -> Iterator[SampleInput]:
    torch.manual_seed(0)  # OpInfos draw from the global generator
    with torch.random.fork_rng(devices=[]):
        for sample in info.sample_inputs("cpu", dtype, requires_grad=grad):
            yield sample if contiguous else sample.noncontiguous()


def call(f: Any, sample: SampleInput, x: Tensor) -> Tensor:
    result: Tensor = f(x, *sample.args, **sample.kwargs)
    return result


def test_every_function_of_torch_is_here() -> None:
    found = {_NAMES[info.name] for info in INFOS}
    lacking = {n for n in TABLE if hasattr(torch.nn.functional, n)} - found
    assert not lacking, "torch has the function, and the tests no OpInfo of it"


@pytest.mark.parametrize("contiguous", [True, False], ids=["contiguous", "non-contiguous"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("info", INFOS, ids=name)
def test_forward_and_gradient(info: OpInfo, dtype: torch.dtype, contiguous: bool) -> None:
    grad = dtype in (torch.float64, torch.float32)
    for sample in samples(info, dtype, grad, contiguous):
        got, want = call(ours(info), sample, sample.input), call(info.op, sample, sample.input)
        torch.testing.assert_close(got, want)
        if want.numel() > 0:
            assert got.stride() == want.stride()
        if not grad or want.numel() == 0:
            continue
        gradient = torch.ones_like(want)
        pair = [torch.autograd.grad(y, sample.input, gradient)[0] for y in (got, want)]
        tolerance = {"rtol": 1e-7, "atol": 1e-7} if dtype == torch.float64 else {}
        torch.testing.assert_close(*pair, **tolerance)


@pytest.mark.parametrize("info", INFOS, ids=name)
def test_gradcheck(info: OpInfo) -> None:
    for sample in samples(info, torch.float64, True, True):
        if sample.input.numel() > 30:
            sample.input = sample.input.detach().reshape(-1)[:30].requires_grad_()
        assert gradcheck(lambda x, s=sample: call(ours(info), s, x), (sample.input,))
        if info.supports_gradgrad:
            assert gradgradcheck(lambda x, s=sample: call(ours(info), s, x), (sample.input,))


@pytest.mark.parametrize("info", INFOS, ids=name)
def test_errors(info: OpInfo) -> None:
    """What torch refuses, we refuse with the same type."""
    if info.error_inputs_func is None:
        pytest.skip("no error inputs")
    for error in info.error_inputs("cpu"):
        sample = error.sample_input
        with pytest.raises(error.error_type):
            call(ours(info), sample, sample.input)
