"""gradkern.numpy: the kernels on NumPy arrays, without a copy."""

from __future__ import annotations

import math
import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from exact_reference import (
    SCALING_ULPS,
    exact_coefficient,
    norm_of_magnitudes,
    same_bits,
    ulp_distance,
)

import gradkern
import gradkern.numpy as gknp

INF = math.inf
NAN = math.nan
DTYPES = [np.float32, np.float64, np.float16]
ORDERS = [0.5, 1, 2, 3, 3.5, INF, -INF, -1]
Array = np.ndarray[Any, np.dtype[Any]]

try:
    from ml_dtypes import bfloat16
except ImportError:  # an extra of NumPy's that not everybody has
    bfloat16 = None
needs_bfloat16 = pytest.mark.skipif(bfloat16 is None, reason="ml_dtypes is not installed")


def normal(*shape: int, dtype: Any = np.float32, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def magnitudes(arrays: list[Array]) -> Array:
    return np.abs(np.concatenate([a.reshape(-1).astype(np.longdouble) for a in arrays]))


def clipped(array: Array, factor: float) -> Array:
    with np.errstate(invalid="ignore", over="ignore"):
        return array.astype(np.float64) * factor


def assert_close(got: Array, want: Array, times: int = 1) -> None:
    tensor = torch.from_numpy(got.copy())
    assert ulp_distance(tensor, want) <= times * SCALING_ULPS[tensor.dtype]


# --- total_norm ---------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_total_norm(dtype: Any, order: float) -> None:
    arrays = [normal(n, dtype=dtype, seed=n) for n in (1, 7, 64, 1000, 40_001)]
    arrays[1:] = [np.where(a == 0, dtype(1), a) for a in arrays[1:]]
    total = gknp.total_norm(arrays, order)
    assert type(total) is float
    assert total == pytest.approx(norm_of_magnitudes(magnitudes(arrays), order), rel=1e-13)


def test_total_norm_of_order_zero_counts_arrays() -> None:
    assert gknp.total_norm([normal(3), np.zeros(4, np.float32), normal(2)], 0) == 2.0


def test_total_norm_forms() -> None:
    array = normal(5, 6)
    expected = norm_of_magnitudes(magnitudes([array]), 2)
    for arrays in ([array], (array,), iter([array]), array):
        assert gknp.total_norm(arrays) == pytest.approx(expected, rel=1e-14)
    assert gknp.total_norm([array], norm_type="inf") == float(np.abs(array).max())
    assert gknp.total_norm([]) == 0.0
    assert gknp.total_norm([np.array(3.0, np.float32), np.array(4.0, np.float32)]) == 5.0
    assert gknp.total_norm([np.empty((0, 3), np.float32)]) == 0.0


def test_total_norm_is_the_same_as_of_tensors_bit_for_bit() -> None:
    arrays = [normal(1000, dtype=np.float64), normal(33, dtype=np.float64, seed=1)]
    for order in ORDERS:
        total = gradkern.get_total_norm([torch.from_numpy(a) for a in arrays], order)
        assert gknp.total_norm(arrays, order) == total.item()


def test_total_norm_at_the_extremes() -> None:
    for value in (1e-45, 1e-26, 1e19, 1e38):
        array = np.full(1000, value, np.float32)
        expected = norm_of_magnitudes(magnitudes([array]), 2)
        assert gknp.total_norm([array]) == pytest.approx(expected, rel=1e-14)
    assert gknp.total_norm([np.array([1.0, INF], np.float32)]) == INF
    assert math.isnan(gknp.total_norm([np.array([NAN, INF], np.float32)]))


def test_total_norm_of_mixed_dtypes() -> None:
    arrays = [normal(50, dtype=d, seed=i) for i, d in enumerate(DTYPES)]
    assert gknp.total_norm(arrays) == pytest.approx(
        norm_of_magnitudes(magnitudes(arrays), 2), rel=1e-14
    )


def test_reading_allocates_no_copy() -> None:
    array = normal(4_000_000)
    gknp.total_norm([array])
    tracemalloc.start()
    try:
        gknp.total_norm([array])
        gknp.tensor_stats([array])
        gknp.total_norm([array.reshape(2000, 2000).T])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < array.nbytes / 20, "NumPy tells tracemalloc of every array it makes"


# --- tensor_stats -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensor_stats_is_that_of_tensors(dtype: Any) -> None:
    arrays = [normal(n, dtype=dtype, seed=n) for n in (1, 10, 3000)]
    arrays[1][3:7] = [0, NAN, INF, -0.0]
    ours = gknp.tensor_stats(arrays)
    theirs = gradkern.tensor_stats([torch.from_numpy(a) for a in arrays])
    assert tuple(ours) == theirs.columns
    for column, (name, values) in enumerate(ours.items()):
        assert values.dtype == np.float64
        assert values.shape == (3,)
        assert np.array_equal(values, theirs.values[:, column].numpy(), equal_nan=True), name


# --- clip_by_global_norm ------------------------------------------------------------------------


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3.5, INF])
@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_by_global_norm(dtype: Any, order: float, inplace: bool) -> None:
    arrays = [normal(n, dtype=dtype, seed=n) for n in (1, 9, 70, 1001)] + [
        normal(4, 5, dtype=dtype)
    ]
    before = [a.copy() for a in arrays]
    total = norm_of_magnitudes(magnitudes(arrays), order)
    factor = exact_coefficient(total, 0.25)
    results, norm = gknp.clip_by_global_norm(arrays, 0.25, order, inplace=inplace)
    assert type(norm) is float
    assert norm == pytest.approx(total, rel=1e-13)
    assert len(results) == len(arrays)
    for result, array, old in zip(results, arrays, before, strict=True):
        assert result.dtype == array.dtype
        assert result.shape == array.shape
        assert_close(result, clipped(old, factor))
        assert (result is array) == inplace
        if not inplace:
            assert np.array_equal(array, old), "the argument was changed"
            assert not np.shares_memory(result, array)


def test_clip_by_global_norm_is_clip_grad_norm_bit_for_bit() -> None:
    for dtype in DTYPES:
        arrays = [normal(500, dtype=dtype), normal(31, dtype=dtype, seed=1)]
        parameters = []
        for array in arrays:
            parameters.append(torch.zeros(array.shape, dtype=torch.from_numpy(array).dtype))
            parameters[-1].grad = torch.from_numpy(array.copy())
        gradkern.clip_grad_norm_(parameters, 0.5)
        results, _ = gknp.clip_by_global_norm(arrays, 0.5)
        for result, parameter in zip(results, parameters, strict=True):
            assert same_bits(torch.from_numpy(result), parameter.grad)


@pytest.mark.parametrize("inplace", [False, True])
def test_nothing_to_clip(inplace: bool) -> None:
    arrays = [normal(100), np.array([-0.0, 1e-40], np.float32)]
    before = [a.copy() for a in arrays]
    results, _ = gknp.clip_by_global_norm(arrays, 1e3, inplace=inplace)
    for result, old in zip(results, before, strict=True):
        assert result.tobytes() == old.tobytes()


def test_clip_by_global_norm_is_not_in_place_unless_asked() -> None:
    array = normal(10) * 100
    before = array.copy()
    gknp.clip_by_global_norm([array], 1.0)
    gknp.clip_by_value([array], 1.0)
    assert np.array_equal(array, before)


@pytest.mark.parametrize("max_norm", [-1.0, 0.0, NAN, INF, "0.5"])
def test_special_max_norms(max_norm: Any) -> None:
    arrays = [normal(20), normal(3, seed=1)]
    factor = exact_coefficient(norm_of_magnitudes(magnitudes(arrays), 2), float(max_norm))
    results, _ = gknp.clip_by_global_norm(arrays, max_norm)
    for result, old in zip(results, arrays, strict=True):
        assert_close(result, clipped(old, factor))


def test_values_that_are_not_finite() -> None:
    with np.errstate(invalid="ignore"):
        (result,), total = gknp.clip_by_global_norm([np.array([1.0, INF, -2.0], np.float32)], 1.0)
        assert total == INF
        assert np.array_equal(result, np.array([0.0, NAN, 0.0], np.float32), equal_nan=True)
        (result,), total = gknp.clip_by_global_norm([np.array([1.0, NAN], np.float32)], 1.0)
    assert math.isnan(total)
    assert np.isnan(result).all()


def test_no_arrays() -> None:
    results, total = gknp.clip_by_global_norm([], 1.0)
    assert list(results) == []
    assert total == 0.0
    assert list(gknp.clip_by_value([], 1.0)) == []


# --- clip_by_value ------------------------------------------------------------------------------


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_by_value(dtype: Any, inplace: bool) -> None:
    arrays = [normal(n, dtype=dtype, seed=n) for n in (1, 9, 70, 1001)]
    arrays.append(np.array([NAN, INF, -INF, 0.25, -0.0], dtype))
    before = [a.copy() for a in arrays]
    results = gknp.clip_by_value(arrays, 0.5, inplace=inplace)
    for result, array, old in zip(results, arrays, before, strict=True):
        assert result.dtype == array.dtype
        assert result.tobytes() == np.clip(old, dtype(-0.5), dtype(0.5)).tobytes()
        assert (result is array) == inplace
        if not inplace:
            assert array.tobytes() == old.tobytes()


# --- memory -------------------------------------------------------------------------------------


def layouts(dtype: Any = np.float32) -> dict[str, Array]:
    base = normal(8, 6, 10, dtype=dtype) * 10
    raw = np.zeros(8 * 40 + 3, np.uint8)
    unaligned = raw[1 : 1 + np.dtype(dtype).itemsize * 30].view(dtype)
    unaligned[:] = normal(30, dtype=dtype)
    return {
        "C": base,
        "Fortran": np.asfortranarray(base),
        "transposed": base.transpose(2, 0, 1),
        "every other": base[:, ::2],
        "backwards": base[::-1, :, ::-1],
        "column": base[:, 3, 4],
        "0-dim": base[1, 2, 3, ...],
        "unaligned element": base.reshape(-1)[3:57],
        "unaligned byte": unaligned,
        "zero elements": base[:0],
    }


@pytest.mark.parametrize("layout", layouts())
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_layout(layout: str, dtype: Any) -> None:
    array = layouts(dtype)[layout]
    before = array.copy()
    total = norm_of_magnitudes(magnitudes([array]), 2)
    assert gknp.total_norm([array]) == pytest.approx(total, rel=1e-13)
    assert gknp.tensor_stats([array])["sum_squares"][0] == pytest.approx(total**2, rel=1e-13)
    factor = exact_coefficient(total, 0.5)
    (result,), _ = gknp.clip_by_global_norm([array], 0.5)
    assert_close(result, clipped(before, factor))
    (result,) = gknp.clip_by_value([array], 0.5)
    assert np.array_equal(result, np.clip(before, dtype(-0.5), dtype(0.5)))
    assert np.array_equal(array, before)


@pytest.mark.parametrize("layout", layouts())
@pytest.mark.parametrize("function", ["clip_by_global_norm", "clip_by_value"])
def test_in_place_on_every_layout_writes_the_array_itself_or_refuses(
    layout: str, function: str
) -> None:
    """What it must never do is to change a copy and say that it was done."""
    array = layouts()[layout]
    before = array.copy()
    try:
        getattr(gknp, function)([array], 0.5, inplace=True)
    except (ValueError, TypeError):
        assert np.array_equal(array, before), "refused, and yet changed"
        return
    if function == "clip_by_value":
        assert np.array_equal(array, np.clip(before, np.float32(-0.5), np.float32(0.5)))
        return
    factor = exact_coefficient(norm_of_magnitudes(magnitudes([before]), 2), 0.5)
    assert_close(array, clipped(before, factor))


def test_gaps_stay_untouched_in_place() -> None:
    base = np.full((6, 8), 7.0, np.float32)
    for function in (gknp.clip_by_global_norm, gknp.clip_by_value):
        try:
            function([base[:, ::2]], 0.5, inplace=True)
        except ValueError:
            continue
        assert (base[:, 1::2] == 7.0).all()


@pytest.mark.parametrize("function", ["clip_by_global_norm", "clip_by_value"])
def test_read_only_arrays(function: str) -> None:
    array = normal(10) * 10
    array.flags.writeable = False
    fine = normal(5) * 10
    before = fine.copy()
    for arrays in ([array], [fine, array], [array, fine]):
        with pytest.raises(ValueError, match="read-only"):
            getattr(gknp, function)(arrays, 0.5, inplace=True)
        assert np.array_equal(fine, before)
    assert gknp.total_norm([array]) > 0
    gknp.tensor_stats([array])
    getattr(gknp, function)([array], 0.5)


@pytest.mark.parametrize("function", ["clip_by_global_norm", "clip_by_value"])
def test_broadcast_arrays(function: str) -> None:
    array = np.broadcast_to(np.full(1, 30.0, np.float32), 4)
    assert gknp.total_norm([array]) == pytest.approx(60.0, rel=1e-14)
    with pytest.raises(ValueError, match="read-only"):
        getattr(gknp, function)([array], 0.5, inplace=True)
    assert array[0] == 30.0
    writeable = np.lib.stride_tricks.as_strided(np.full(1, 30.0, np.float32), (4,), (0,))
    with pytest.raises(ValueError, match="overlap"):
        getattr(gknp, function)([writeable], 0.5, inplace=True)
    assert writeable[0] == 30.0


@pytest.mark.parametrize("function", ["clip_by_global_norm", "clip_by_value"])
def test_arrays_that_share_memory_in_place(function: str) -> None:
    """All are changed at once, so each must have its own memory; views that interleave have."""
    array = normal(6, 8) * 10
    before = array.copy()
    for arrays in ([array, array], [array[:4], array[2:]], [array, array.T]):
        with pytest.raises(ValueError, match="memory"):
            getattr(gknp, function)(arrays, 0.5, inplace=True)
        assert np.array_equal(array, before)
    getattr(gknp, function)([array[:3], array[3:]], 0.5, inplace=True)
    assert (array != before).any()
    getattr(gknp, function)([before, before], 0.5)  # reading is always allowed


@pytest.mark.parametrize("function", ["clip_by_global_norm", "clip_by_value"])
def test_interleaved_views_in_place(function: str) -> None:
    array = normal(6, 8) * 10
    expected, _ = gknp.clip_by_global_norm([array], 0.5)
    if function == "clip_by_value":
        expected = gknp.clip_by_value([array], 0.5)
    getattr(gknp, function)([array[:, ::2], array[:, 1::2]], 0.5, inplace=True)
    assert np.array_equal(array, expected[0])


# --- out ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["clip_by_global_norm", "clip_by_value"])
def test_out(function: str) -> None:
    arrays = [normal(50) * 3, normal(4, 5, seed=1).T]
    before = [a.copy() for a in arrays]
    outs = [np.empty_like(arrays[0]), np.empty((5, 4), np.float32)]
    expected = getattr(gknp, function)(arrays, 0.5)
    results = getattr(gknp, function)(arrays, 0.5, out=outs)
    if function == "clip_by_global_norm":
        expected, results = expected[0], results[0]
    for result, out, want, array, old in zip(results, outs, expected, arrays, before, strict=True):
        assert result is out
        assert np.array_equal(out, want)
        assert np.array_equal(array, old)


@pytest.mark.parametrize("function", ["clip_by_global_norm", "clip_by_value"])
def test_out_that_does_not_fit(function: str) -> None:
    array = normal(5) * 10
    read_only = np.empty(5, np.float32)
    read_only.flags.writeable = False
    for out in (
        [],
        [np.zeros(4, np.float32)],
        [np.zeros(5, np.float64)],
        [np.zeros(5, np.float32)] * 2,
        [read_only],
        [None],
        3,
        np.zeros((1, 5), np.float32),
    ):
        with pytest.raises((TypeError, ValueError)):
            getattr(gknp, function)([array], 0.5, out=out)
    with pytest.raises((TypeError, ValueError)):
        getattr(gknp, function)([array], 0.5, out=[np.zeros(5, np.float32)], inplace=True)


@pytest.mark.parametrize("function", ["clip_by_global_norm", "clip_by_value"])
def test_out_that_shares_memory_with_the_arrays_is_right_or_refused(function: str) -> None:
    def call(arrays: list[Array], **kwargs: Any) -> list[Array]:
        results = getattr(gknp, function)(arrays, 0.5, **kwargs)
        return results[0] if function == "clip_by_global_norm" else results

    base = normal(3, 30) * 10
    for choose in (
        lambda a: ([a[0], a[1]], [a[1], a[0]]),
        lambda a: ([a[0], a[1]], [a[0], a[1]]),
        lambda a: ([a[0, :20]], [a[0, 5:25]]),
        lambda a: ([a[0], a[1]], [a[1], a[2]]),
    ):
        array = base.copy()
        arrays, outs = choose(array)
        expected = [r.copy() for r in call([a.copy() for a in arrays])]
        try:
            results = call(arrays, out=outs)
        except ValueError:
            assert np.array_equal(array, base)
            continue
        for result, want in zip(results, expected, strict=True):
            assert np.array_equal(result, want)


@pytest.mark.parametrize("bad", ["x", None, 1j, [1.0]], ids=str)
def test_out_is_untouched_by_a_call_that_raises(bad: Any) -> None:
    out = np.full(5, 7.0, np.float32)
    for call in (
        lambda: gknp.clip_by_global_norm([normal(5)], bad, out=[out]),
        lambda: gknp.clip_by_global_norm([normal(5)], 1.0, bad, out=[out]),
        lambda: gknp.clip_by_value([normal(5)], bad, out=[out]),
        lambda: gknp.clip_by_value([np.arange(5)], 1.0, out=[out]),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()
        assert (out == 7.0).all()


# --- dtypes -------------------------------------------------------------------------------------


@needs_bfloat16
def test_bfloat16() -> None:
    array = normal(1000).astype(bfloat16)
    before = array.copy()
    total = norm_of_magnitudes(np.abs(array.astype(np.longdouble)), 2)
    assert gknp.total_norm([array]) == pytest.approx(total, rel=1e-13)
    (result,), _ = gknp.clip_by_global_norm([array], 0.5)
    assert result.dtype == array.dtype
    tensor = torch.from_numpy(result.view(np.int16)).view(torch.bfloat16)
    expected = clipped(before, exact_coefficient(total, 0.5))
    assert ulp_distance(tensor, expected) <= SCALING_ULPS[torch.bfloat16]
    (same,), _ = gknp.clip_by_global_norm([array], 0.5, inplace=True)
    assert same is array
    assert array.tobytes() == result.tobytes()


@pytest.mark.parametrize(
    "dtype",
    [
        np.int8,
        np.int32,
        np.int64,
        np.uint8,
        np.bool_,
        np.complex64,
        ">f4",
        ">f8",
        object,
        "U3",
        "M8[s]",
    ],
)
def test_other_dtypes_are_refused(dtype: Any) -> None:
    bad = np.zeros(3, dtype)
    fine = normal(5) * 10
    before = fine.copy()
    for call in (
        lambda a: gknp.total_norm(a),
        lambda a: gknp.tensor_stats(a),
        lambda a: gknp.clip_by_global_norm(a, 1.0),
        lambda a: gknp.clip_by_global_norm(a, 1.0, inplace=True),
        lambda a: gknp.clip_by_value(a, 1.0),
        lambda a: gknp.clip_by_value(a, 1.0, inplace=True),
    ):
        for index, arrays in ((0, [bad]), (1, [fine, bad]), (0, [bad, fine])):
            with pytest.raises(TypeError) as raised:
                call(arrays)
            assert f"arrays[{index}]" in str(raised.value)
            assert str(np.dtype(dtype)) in str(raised.value)
            assert np.array_equal(fine, before)


@pytest.mark.parametrize(
    "bad",
    [None, 3, 1.5, "array", {"a": 1}, [1.0, 2.0], torch.ones(3)],
    ids=lambda x: type(x).__name__,
)
def test_what_is_no_array_is_refused(bad: Any) -> None:
    fine = normal(5) * 10
    before = fine.copy()
    for arrays in ([fine, bad], [bad, fine]):
        for call in (
            lambda a: gknp.total_norm(a),
            lambda a: gknp.tensor_stats(a),
            lambda a: gknp.clip_by_global_norm(a, 1.0, inplace=True),
            lambda a: gknp.clip_by_value(a, 1.0, inplace=True),
        ):
            with pytest.raises((TypeError, ValueError)):
                call(arrays)
            assert np.array_equal(fine, before)


@pytest.mark.parametrize("bad", [None, 3, 1.5])
def test_what_is_not_iterable_is_refused(bad: Any) -> None:
    for call in (gknp.total_norm, gknp.tensor_stats):
        with pytest.raises(TypeError):
            call(bad)


@pytest.mark.parametrize("bad", ["x", None, 1j, [1.0]], ids=str)
def test_numbers_that_are_none(bad: Any) -> None:
    array = normal(5) * 10
    before = array.copy()
    for call in (
        lambda: gknp.total_norm([array], bad),
        lambda: gknp.clip_by_global_norm([array], bad, inplace=True),
        lambda: gknp.clip_by_global_norm([array], 1.0, bad, inplace=True),
        lambda: gknp.clip_by_value([array], bad, inplace=True),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()
        assert np.array_equal(array, before)


def test_threads_may_call_at_once() -> None:
    """The kernels run without the interpreter's lock."""
    from concurrent.futures import ThreadPoolExecutor

    arrays = [normal(30_000, seed=i) for i in range(8)]
    expected = [gknp.total_norm([a]) for a in arrays]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert list(pool.map(lambda a: gknp.total_norm([a]), arrays)) == expected


def test_import_needs_no_optional_package() -> None:
    program = (
        "import sys\n"
        "for name in ('ml_dtypes', 'rich', 'typer', 'matplotlib', 'sklearn'):\n"
        "    sys.modules[name] = None\n"
        "import numpy, gradkern.numpy\n"
        "print(gradkern.numpy.total_norm([numpy.full(4, 2.0)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "4.0\n"
