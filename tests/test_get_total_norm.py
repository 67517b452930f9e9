"""get_total_norm against exact references, at its extremes, and its bits in other conditions."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact_reference import (
    ALL_DTYPES,
    REAL_DTYPES,
    exact_norm,
    real_dtype,
    same_bits,
    ulp_distance,
)
from reduction_bits import ORDERS, fixed_values, placed, reduction_bits
from torch import Tensor

import gradkern

INF = math.inf
NAN = math.nan
FINITE_ORDERS = [0, 0.5, 1, 2, 3, 3.5, INF, -INF, -1, -2.5]


def normal(backend: Any, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_complex:
        parts = torch.randn((*shape, 2), generator=generator, dtype=torch.float64)
        return torch.view_as_complex(parts).to(dtype).to(backend.device)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(backend.device)


def allowed_ulps(dtype: torch.dtype, order: float) -> float:
    """One rounding of the result; float64 results are sums of rounded terms (1e-14, and 1e-13 for
    powers that are neither 1, 2 nor infinite)."""
    if real_dtype(dtype) != torch.float64:
        return 1
    return 45 if order in (0, 1, 2, INF, -INF) else 450


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", FINITE_ORDERS)
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_value(backend: Any, dtype: torch.dtype, order: float) -> None:
    tensors = [normal(backend, n, dtype=dtype, seed=n) for n in (1, 5, 16, 33, 1000, 4097)]
    total = gradkern.get_total_norm(tensors, order)
    assert total.dtype == real_dtype(dtype)
    assert total.device == tensors[0].device
    assert total.shape == ()
    assert ulp_distance(total, exact_norm(tensors, order)) <= allowed_ulps(dtype, order)


@pytest.mark.parametrize("order", FINITE_ORDERS)
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_value_of_widely_spread_magnitudes(backend: Any, dtype: torch.dtype, order: float) -> None:
    tensors = [fixed_values(n, dtype).to(backend.device) for n in (37, 2048, 5)]
    expected = exact_norm(tensors, order)
    total = gradkern.get_total_norm(tensors, order)
    assert ulp_distance(total, expected) <= allowed_ulps(dtype, order)


@pytest.mark.parametrize("order", [1, 2, 3.5, INF, -INF, 0])
@pytest.mark.parametrize(
    "size", [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 127, 129, 257, 1023, 1025]
)
def test_value_at_every_remainder(backend: Any, size: int, order: float) -> None:
    if size == 0 and math.isinf(order):
        with pytest.raises(RuntimeError):
            gradkern.get_total_norm([torch.empty(0, device=backend.device)], order)
        return
    for dtype in (torch.float32, torch.bfloat16):
        tensor = normal(backend, size, dtype=dtype, seed=size)
        total = gradkern.get_total_norm([tensor], order)
        assert ulp_distance(total, exact_norm(tensor, order)) <= 1


def test_every_element_counts(backend: Any) -> None:
    """One element that is not zero, at each place in turn."""
    for dtype in REAL_DTYPES:
        for size in (1, 9, 67, 131):
            tensor = torch.zeros(size, dtype=dtype, device=backend.device)
            for place in range(size):
                tensor[place] = -3.0
                for order in (2, INF):
                    assert gradkern.get_total_norm([tensor], order).item() == 3.0, (
                        dtype,
                        size,
                        place,
                    )
                tensor[place] = 0.0


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_string_and_nan_orders(backend: Any, dtype: torch.dtype) -> None:
    tensors = [normal(backend, 40, dtype=dtype)]
    assert same_bits(gradkern.get_total_norm(tensors, "inf"), gradkern.get_total_norm(tensors, INF))
    assert same_bits(
        gradkern.get_total_norm(tensors, "-inf"), gradkern.get_total_norm(tensors, -INF)
    )
    assert same_bits(gradkern.get_total_norm(tensors, "2"), gradkern.get_total_norm(tensors))
    assert math.isnan(gradkern.get_total_norm(tensors, NAN).item())


@pytest.mark.parametrize("order", [0.5, 1, 2, 3.5, INF])
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("place", [0, 70, 1999])
def test_values_that_are_not_finite(
    backend: Any, dtype: torch.dtype, order: float, place: int
) -> None:
    for value, expected in ((INF, INF), (-INF, INF), (NAN, NAN)):
        tensor = normal(backend, 2000, dtype=dtype)
        tensor[place] = value
        total = gradkern.get_total_norm([normal(backend, 8, dtype=dtype), tensor], order).item()
        assert total == expected or (math.isnan(total) and math.isnan(expected))
    tensor[(place + 999) % 2000] = INF  # NaN wins over infinity
    assert math.isnan(gradkern.get_total_norm([tensor], order).item())


# --- extremes -----------------------------------------------------------------------------------

MAX = torch.finfo(torch.float32).max


@pytest.mark.parametrize("order", [0.5, 1, 2, 3, 3.5, 50, INF, -1, -INF])
@pytest.mark.parametrize("value", [1e-45, 3e-41, 1e-38, 1e-26, 1e-19, 1e19, 1e26, 1e38, MAX])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_extremes_of_float32(backend: Any, dtype: torch.dtype, value: float, order: float) -> None:
    """Where squares of float32 under- or overflow. True norms beyond the dtype become infinite."""
    sign = torch.ones(300, dtype=dtype, device=backend.device)
    sign[::3] = -1
    tensor = sign * torch.tensor(value, dtype=torch.float32).to(dtype).to(backend.device)
    if dtype == torch.bfloat16 and value == MAX:
        tensor = sign * torch.finfo(dtype).max
    expected = exact_norm(tensor, order)
    assert ulp_distance(gradkern.get_total_norm([tensor], order), expected) <= 1
    half = list(tensor.split(150))
    assert ulp_distance(gradkern.get_total_norm(half, order), expected) <= 1


@pytest.mark.parametrize("order", [0.5, 1, 2, 3.5, INF, -2])
def test_smallest_and_largest_together(backend: Any, order: float) -> None:
    tensors = [
        torch.full((100,), value, device=backend.device)
        for value in (1e-45, 1e30, 1.0, 1e-26, 1e19)
    ]
    for some in (tensors, tensors[::-1]):
        assert ulp_distance(gradkern.get_total_norm(some, order), exact_norm(some, order)) <= 1
    together = [torch.cat(tensors)]
    assert ulp_distance(gradkern.get_total_norm(together, order), exact_norm(tensors, order)) <= 1


@pytest.mark.parametrize("order", [1, 2, 3.5, INF])
def test_extremes_of_float16(backend: Any, order: float) -> None:
    for value in (6e-8, 6e-5, 60000.0):
        tensor = torch.full((3,), value, dtype=torch.float16, device=backend.device)
        assert (
            ulp_distance(gradkern.get_total_norm([tensor], order), exact_norm(tensor, order)) <= 1
        )


@pytest.mark.parametrize("value", [1e-150, 1e-149, 1e149, 1e150])
def test_extremes_of_float64(backend: Any, value: float) -> None:
    tensor = torch.full((1000,), value, dtype=torch.float64, device=backend.device)
    for order in (1, 2, INF, -INF):
        total = gradkern.get_total_norm([tensor], order)
        assert ulp_distance(total, exact_norm(tensor, order)) <= 45


def test_ends_of_float64_that_need_no_power(backend: Any) -> None:
    info = torch.finfo(torch.float64)
    for value in (info.max, info.smallest_normal, 5e-324):
        tensor = torch.tensor([0.0, -value], dtype=torch.float64, device=backend.device)
        for order in (1, INF):
            assert gradkern.get_total_norm([tensor], order).item() == value


def test_all_zeros(backend: Any) -> None:
    for dtype in ALL_DTYPES:
        tensor = torch.zeros(100, dtype=dtype, device=backend.device)
        for order in FINITE_ORDERS:
            assert gradkern.get_total_norm([tensor, tensor], order).item() == 0
        assert gradkern.get_total_norm([-tensor], 2).item() == 0


def test_ten_million_normal_values(backend: Any) -> None:
    """Native's float32 total of these is off by 3.6e-4."""
    size = 10_000_000 if backend.name != "simt" else 19_000
    tensor = torch.randn(size, generator=torch.Generator().manual_seed(1))
    expected = math.sqrt(np.square(tensor.numpy().astype(np.float64)).sum())
    total = gradkern.get_total_norm([tensor.to(backend.device)]).item()
    assert abs(total / expected - 1) < 1e-6
    assert abs(total / expected - 1) <= 2**-24 + 1e-12, "float64 sums leave only the last rounding"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_million_16_bit_values(backend: Any, dtype: torch.dtype) -> None:
    size = 1_000_000 if backend.name != "simt" else 19_000
    tensor = torch.full((size,), 0.001, dtype=dtype, device=backend.device)
    with_float32 = [tensor, torch.zeros(1, device=backend.device)]
    expected = tensor[0].item()
    assert ulp_distance(gradkern.get_total_norm(with_float32, 1), expected * size) <= 1
    assert ulp_distance(gradkern.get_total_norm(with_float32), expected * math.sqrt(size)) <= 1


def test_more_than_two_to_the_31_elements() -> None:
    """The untouched pages of a zero array map to one page: this needs only 4 GiB of addresses."""
    size = 2**31 + 4099
    try:
        array = np.zeros(size, dtype=np.int16)
    except MemoryError:
        pytest.skip("4 GiB of address space are not to be had here")
    array[[0, 2**31 - 1, -1]] = 0x4000  # 2.0 in bfloat16
    tensor = torch.from_numpy(array).view(torch.bfloat16)
    stats = gradkern.tensor_stats([tensor])
    assert stats.count.item() == size
    assert stats.zeros.item() == size - 3
    assert stats.sum.item() == 6
    assert stats.sum_squares.item() == 12
    assert stats.norm.item() == math.sqrt(12)


# --- lists of tensors ---------------------------------------------------------------------------


@pytest.mark.parametrize("order", [0, 1, 2, 3.5, INF])
def test_grouping_and_order_of_float64_change_the_last_bits_at_most(
    backend: Any, order: float
) -> None:
    whole = normal(backend, 5000, dtype=torch.float64)
    expected = exact_norm(whole, order)
    for sizes in ([5000], [1] * 100 + [4900], [4900] + [1] * 100, [625] * 8, [2047, 2953]):
        parts = list(whole.split(sizes))
        for some in (parts, parts[::-1]):
            total = gradkern.get_total_norm(some, order).item()
            if order == 0:
                assert total == len(sizes)
            else:
                assert abs(total / expected - 1) < (1e-14 if order != 3.5 else 1e-13)


@pytest.mark.parametrize("order", [0, 2, INF, 3.5, -1])
def test_ten_thousand_tensors(backend: Any, order: float) -> None:
    count = 10_000 if backend.name != "simt" else 2500
    whole = normal(backend, 4 * count)
    tensors = [whole[4 * i : 4 * i + 1 + i % 4] for i in range(count)]
    tensors[7] = torch.zeros(3, device=backend.device) if order >= 0 else tensors[7]
    expected = count - 1 if order == 0 else exact_norm(torch.cat(tensors), order)
    assert ulp_distance(gradkern.get_total_norm(tensors, order), expected) <= 1


def test_mixed_dtypes(backend: Any) -> None:
    tensors = [
        normal(backend, 100 + i, dtype=dtype, seed=i) for i, dtype in enumerate(ALL_DTYPES * 2)
    ]
    for order in (1, 2, 3.5, INF, -1):
        total = gradkern.get_total_norm(tensors, order)
        assert total.dtype == torch.float64
        assert ulp_distance(total, exact_norm(tensors, order)) <= allowed_ulps(torch.float64, order)
        some = [t for t in tensors if t.dtype not in (torch.float64, torch.complex128)]
        total = gradkern.get_total_norm(some, order)
        assert total.dtype == torch.float32
        assert ulp_distance(total, exact_norm(some, order)) <= 1


def test_zero_element_tensors_among_others(backend: Any) -> None:
    empty = torch.empty(0, 3, device=backend.device)
    tensor = normal(backend, 50)
    for order in (0.5, 1, 2, 3.5):
        total = gradkern.get_total_norm([empty, tensor, empty, empty], order)
        assert ulp_distance(total, exact_norm(tensor, order)) <= 1
    assert gradkern.get_total_norm([empty, tensor, empty], 0).item() == 1
    assert gradkern.get_total_norm([empty]).item() == 0


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_layouts(backend: Any, dtype: torch.dtype) -> None:
    base = normal(backend, 4, 6, 10, 3, dtype=dtype)
    layouts = {
        "transposed": base.transpose(0, 2),
        "channels_last": base.contiguous(memory_format=torch.channels_last),
        "gaps": base[:, :, ::2],
        "rows": base[:, 1:4],
        "column": base[:, 3, 2, 1],
        "0-dim": base[1, 2, 3, 1],
        "expanded": base[:, :1].expand(4, 5, 10, 3),
        "overlapping": torch.as_strided(base, (7, 9), (2, 3), 5),
        "unaligned": base.reshape(-1)[1:-2],
        "flipped": base.flip(1),
    }
    for name, tensor in layouts.items():
        for order in (1, 2, 3.5, INF):
            total = gradkern.get_total_norm([tensor], order)
            expected = exact_norm(tensor, order)
            assert ulp_distance(total, expected) <= allowed_ulps(dtype, order), name


def test_tensors_are_only_read(backend: Any) -> None:
    tensors = [normal(backend, 500), normal(backend, 4, 6)[:, ::2]]
    before = [t.clone() for t in tensors]
    for order in FINITE_ORDERS:
        gradkern.get_total_norm(tensors, order)
    assert all(same_bits(t, b) for t, b in zip(tensors, before, strict=True))
    assert all(t._version == 0 for t in tensors)


def test_total_is_its_own_tensor(backend: Any) -> None:
    """Two calls must not share memory, nor give a view of a larger buffer that stays alive."""
    tensor = normal(backend, 10)
    first, second = gradkern.get_total_norm([tensor]), gradkern.get_total_norm([tensor * 2])
    assert first.data_ptr() != second.data_ptr()
    value = first.item()
    second.zero_()
    assert first.item() == value


# --- the same bits under other conditions -------------------------------------------------------


@pytest.fixture(scope="module")
def own_bits() -> dict[str, list[str]]:
    return reduction_bits()


def test_thread_count_does_not_change_a_bit(own_bits: dict[str, list[str]]) -> None:
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            assert reduction_bits() == own_bits, f"{count} threads"
    finally:
        torch.set_num_threads(threads)


def test_alignment_does_not_change_a_bit(own_bits: dict[str, list[str]]) -> None:
    for offset in (1, 2, 3, 8):
        assert reduction_bits(offset) == own_bits, f"{offset} elements off"


OWN_ISA = gradkern.build_info()["cpu_isa"]
OTHER_ISAS = [isa for isa in gradkern.build_info()["cpu_isas"] if isa != OWN_ISA]


@pytest.mark.parametrize("isa", OTHER_ISAS)
def test_instruction_set_does_not_change_a_bit(isa: str, own_bits: dict[str, list[str]]) -> None:
    """In a process of its own: the instruction set is chosen once, and this process has its own."""
    script = Path(__file__).with_name("reduction_bits.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "GRADKERN_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["cpu_isa"] == isa
    differing = [k for k, v in report["bits"].items() if v != own_bits[k]]
    assert not differing
    assert report["bits"].keys() == own_bits.keys()


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_position_and_repetition_do_not_change_a_bit(backend: Any, dtype: torch.dtype) -> None:
    """The same bits at every alignment, on every device, and each time."""
    values = fixed_values(3001, dtype)
    for order in ORDERS:
        seen = set()
        for offset in (0, 1, 3, 4):
            tensor = placed(values, offset).to(backend.device)
            if backend.device.type == "cuda":  # a copy to the device is aligned again
                buffer = torch.empty(3001 + offset, dtype=dtype, device=backend.device)
                tensor = buffer[offset:].copy_(tensor)
            wide = [tensor, torch.ones(1, dtype=torch.float64, device=backend.device)]
            seen.update(gradkern.get_total_norm(wide, order).item().hex() for _ in range(2))
        assert len(seen) == 1, f"order {order}"
