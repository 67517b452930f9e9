"""Every memory layout, the result in the layout that torch gives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from table_rows import DTYPES, ROWS, function, name, normal, passes, same_bits
from torch import Tensor

from gradkern.activations import TABLE, Activation

LAYOUTS: dict[str, Callable[[torch.dtype], Tensor]] = {
    "contiguous": lambda d: normal(3, 4, 5, 6, dtype=d),
    "channels last": lambda d: normal(3, 4, 5, 6, dtype=d).to(memory_format=torch.channels_last),
    "transposed": lambda d: normal(7, 9, dtype=d).t(),
    "permuted": lambda d: normal(3, 4, 5, dtype=d).permute(2, 0, 1),
    "sliced with gaps": lambda d: normal(6, 10, dtype=d)[1::2, ::3],
    "rows of a matrix": lambda d: normal(6, 10, dtype=d)[:, 2:7],
    "expanded": lambda d: normal(4, 1, dtype=d).expand(4, 5),
    "expanded number": lambda d: normal(1, dtype=d).expand(3, 7),
    "overlapping windows": lambda d: normal(20, dtype=d).unfold(0, 4, 2),
    "0-dimensional": lambda d: normal(dtype=d),
    "empty": lambda d: torch.empty(0, 4, dtype=d),
    "empty, transposed": lambda d: torch.empty(4, 0, dtype=d).t(),
    "of size 1": lambda d: torch.as_strided(normal(40, dtype=d), (1, 5, 1), (99, 1, 7)),
    "at an offset": lambda d: normal(50, dtype=d)[3:],
    "every second": lambda d: normal(50, dtype=d)[::2],
}
WRITABLE = [n for n in LAYOUTS if not n.startswith(("expanded", "overlapping"))]


def as_tuple(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("row", ROWS, ids=name)
def test_new_results(row: Activation, layout: str) -> None:
    dtype = DTYPES[(row.index + list(LAYOUTS).index(layout)) % len(DTYPES)]
    x = LAYOUTS[layout](dtype)
    for operator, tensors in passes(row):
        gradients = [normal(*x.shape, dtype=dtype, seed=1), torch.ones_like(x)]
        if x.dim() > 1:
            gradients.append(gradients[0].transpose(0, 1).contiguous().transpose(0, 1))
            gradients.append(gradients[0][..., :1].expand(x.shape))
        for grad in gradients if tensors == 2 else gradients[:1]:
            inputs = (grad, x)[2 - tensors :]
            got = as_tuple(operator(*inputs, *row.defaults()))
            want = as_tuple(operator(*(t.contiguous() for t in inputs), *row.defaults()))
            for result, flat in zip(got, want, strict=True):
                assert same_bits(result, flat), operator
                assert result.stride() == torch.empty_like(x).stride(), operator
                assert result.data_ptr() != x.data_ptr() or x.numel() == 0


@pytest.mark.parametrize("layout", WRITABLE)
@pytest.mark.parametrize("row", [TABLE["silu"], TABLE["leaky_relu"]], ids=name)
def test_in_place(row: Activation, layout: str) -> None:
    x = LAYOUTS[layout](torch.float32)
    storage = x if x._base is None else x._base
    others = torch.ones(storage.shape, dtype=torch.bool)
    torch.as_strided(others, x.shape, x.stride(), x.storage_offset()).fill_(False)
    before, want = storage.clone(), row.value(x.contiguous(), *row.defaults())
    strides = x.stride()
    assert function(row)(x, inplace=True) is x
    assert same_bits(x, want)
    assert x.stride() == strides
    assert same_bits(storage[others], before[others]), "written between the elements"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("out_layout", WRITABLE)
def test_out(layout: str, out_layout: str) -> None:
    row, x, out = TABLE["silu"], LAYOUTS[layout](torch.float32), LAYOUTS[out_layout](torch.float32)
    if out.shape != x.shape:
        out = torch.empty(x.shape[::-1]).permute(tuple(reversed(range(x.dim()))))
    want = row.value(x.contiguous())
    strides = out.stride()
    assert function(row)(x, out=out) is out
    assert same_bits(out, want)
    assert out.stride() == strides


def test_out_of_no_elements_is_resized() -> None:
    out = torch.empty(0)
    x = normal(3, 4)
    assert function(TABLE["silu"])(x, out=out) is out
    assert same_bits(out, TABLE["silu"].value(x))


def test_out_of_a_wider_dtype_receives_the_result() -> None:
    x, out = normal(5), torch.empty(5, dtype=torch.float64)
    function(TABLE["silu"])(x, out=out)
    assert same_bits(out, TABLE["silu"].value(x).double())
