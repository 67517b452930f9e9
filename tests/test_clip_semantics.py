"""Every promise of a drop-in for torch.nn.utils' clipping, native and ours side by side on copies.

The last sections test the three places where gradkern is better on purpose: there the judge is an
exact reference instead of native.
"""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from exact_reference import (
    ALL_DTYPES,
    REAL_DTYPES,
    SCALING_ULPS,
    components,
    exact_coefficient,
    exact_norm,
    real_dtype,
    same_bits,
    scaled,
    ulp_distance,
)
from side_by_side import (
    NATIVE_ULPS,
    assert_same,
    assert_same_exception,
    observe,
    parameter_with,
    parameters_with,
    side_by_side,
)
from torch import Tensor

import gradkern

INF = math.inf
NAN = math.nan
EXACTLY = dict.fromkeys((*ALL_DTYPES, torch.int32), 0.0)
FOREACH = [None, True, False]
CLIPS: list[tuple[str, tuple[Any, ...]]] = [
    ("clip_grad_norm_", (1.0,)),
    ("clip_grad_value_", (1.0,)),
    ("clip_grads_with_norm_", (1.0, torch.tensor(5.0, dtype=torch.float64))),
]
CLIP_NAMES = [name for name, _ in CLIPS]


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_complex:
        parts = torch.randn((*shape, 2), generator=generator, dtype=torch.float64)
        return torch.view_as_complex(parts).to(dtype)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def check(name: str, gradients: list[Tensor | None], *args: Any, **kwargs: Any) -> Tensor | None:
    """Runs both and asserts that nothing differs; returns our result."""
    native, ours = side_by_side(name, gradients, *args, **kwargs)
    assert_same(native, ours)
    return ours.result


# --- what may be passed as parameters -----------------------------------------------------------


@pytest.mark.parametrize("gradients", [[], [None], [None, None]], ids=["empty", "None", "Nones"])
def test_no_gradients_gives_zero_float32_on_the_cpu(gradients: list[Tensor | None]) -> None:
    result = check("clip_grad_norm_", gradients, 1.0)
    assert same_bits(result, torch.tensor(0.0))
    assert result.device.type == "cpu"


def test_total_norm_of_nothing_is_zero_float32() -> None:
    assert same_bits(check("get_total_norm", []), torch.tensor(0.0))


def test_no_gradients_error_if_nonfinite_is_no_error() -> None:
    check("clip_grad_norm_", [None], 1.0, error_if_nonfinite=True)


def test_empty_generator_warns() -> None:
    native, ours = side_by_side("clip_grad_norm_", [], 1.0, collect=lambda x: (p for p in x))
    assert_same(native, ours)
    ((category, message, _),) = ours.warnings
    assert category is UserWarning
    assert message == "`parameters` is an empty generator, no gradient clipping will occur."
    assert same_bits(ours.result, torch.tensor(0.0))


def test_empty_generator_warning_points_at_the_callers_line() -> None:
    for library in (torch.nn.utils, gradkern):
        with pytest.warns(UserWarning, match="is an empty generator") as caught:
            library.clip_grad_norm_((p for p in []), 1.0)
        assert caught[0].filename == __file__, library.__name__


def test_empty_filter_object_does_not_warn() -> None:
    native, ours = side_by_side("clip_grad_norm_", [], 1.0, collect=lambda x: filter(None, x))
    assert_same(native, ours)
    assert ours.warnings == []


def test_generator_of_parameters_without_gradients_does_not_warn() -> None:
    native, ours = side_by_side("clip_grad_norm_", [None], 1.0, collect=lambda x: (p for p in x))
    assert_same(native, ours)
    assert ours.warnings == []


@pytest.mark.parametrize(("name", "args"), CLIPS, ids=CLIP_NAMES)
def test_generator_is_accepted(name: str, args: tuple[Any, ...]) -> None:
    gradients: list[Tensor | None] = [normal(7), None, normal(3, 4, seed=1)]
    native, ours = side_by_side(name, gradients, *args, collect=lambda x: (p for p in x))
    if name == "clip_grads_with_norm_":
        # native's exhausts the generator in one pass, so it can be used at all
        assert native.exception is None
    assert_same(native, ours)


@pytest.mark.parametrize(
    "collection", [tuple, iter, dict.fromkeys, lambda x: {p: 1 for p in x}.keys()]
)
def test_other_iterables_are_accepted(collection: Any) -> None:
    assert_same(
        *side_by_side("clip_grad_norm_", [normal(7), normal(4, seed=1)], 1.0, collect=collection)
    )


@pytest.mark.parametrize(("name", "args"), CLIPS, ids=CLIP_NAMES)
def test_single_tensor_is_accepted(name: str, args: tuple[Any, ...]) -> None:
    assert_same(*side_by_side(name, [normal(3, 4)], *args, collect=lambda x: x[0]))


def test_single_tensor_is_accepted_by_get_total_norm() -> None:
    assert_same(*side_by_side("get_total_norm", [normal(3, 4)], collect=lambda x: x[0]))


def test_generator_is_accepted_by_get_total_norm() -> None:
    native, ours = side_by_side("get_total_norm", [normal(3), normal(4)], collect=lambda x: iter(x))
    assert_same(native, ours)


def test_none_inside_get_total_norm_is_an_error() -> None:
    for tensors in ([None], [torch.ones(2), None], [None, torch.ones(2)]):
        # native's type depends on the place: AttributeError or RuntimeError
        for library in (torch.nn.utils, gradkern):
            with pytest.raises((AttributeError, RuntimeError, TypeError)):
                library.get_total_norm(tensors)


def test_a_gradient_of_none_is_skipped() -> None:
    check("clip_grad_norm_", [None, normal(5), None, normal(6, seed=1)], 0.5)


def test_arguments_may_be_positional_or_by_name() -> None:
    gradients: list[Tensor | None] = [normal(5)]
    check("clip_grad_norm_", gradients, 1.0, 2.0, False, None)
    check(
        "clip_grad_norm_",
        gradients,
        max_norm=1.0,
        norm_type=1,
        error_if_nonfinite=True,
        foreach=False,
    )
    check("get_total_norm", gradients, 2.0, False, None)
    check("get_total_norm", gradients, norm_type=3, error_if_nonfinite=True, foreach=True)
    check(
        "clip_grads_with_norm_", gradients, max_norm=1.0, total_norm=torch.tensor(3.0), foreach=True
    )
    check("clip_grad_value_", gradients, clip_value=0.5, foreach=False)


# --- dtype, device and layout -------------------------------------------------------------------


@pytest.mark.parametrize("first", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("second", ALL_DTYPES, ids=str)
def test_result_dtype_is_promoted(first: torch.dtype, second: torch.dtype) -> None:
    gradients: list[Tensor | None] = [torch.ones(2, dtype=first), torch.ones(3, dtype=second)]
    for name, args in (("get_total_norm", ()), ("clip_grad_norm_", (100.0,))):
        native, ours = side_by_side(name, gradients, *args)
        assert ours.result.dtype == native.result.dtype
        assert ours.result.shape == native.result.shape == ()
        assert ours.result.device == native.result.device
        # native rounds the 16-bit partial norms; the value is judged exactly here
        assert ulp_distance(ours.result, math.sqrt(5)) <= 1


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_result_dtype_of_one_dtype(dtype: torch.dtype) -> None:
    result = check("clip_grad_norm_", [normal(6, dtype=dtype), normal(3, dtype=dtype, seed=1)], 0.5)
    assert result.dtype == real_dtype(dtype)


def test_promoted_dtype_is_that_of_all_gradients_not_only_of_the_first_two() -> None:
    gradients: list[Tensor | None] = [
        normal(3, dtype=torch.bfloat16),
        normal(3, dtype=torch.float16, seed=1),
        normal(3, dtype=torch.float64, seed=2),
    ]
    native, ours = side_by_side("get_total_norm", gradients)
    assert ours.result.dtype == native.result.dtype == torch.float64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="mixed devices need a GPU")
@pytest.mark.parametrize("devices", [("cpu", "cuda"), ("cuda", "cpu")])
def test_mixed_devices_give_the_first_gradients_device(devices: tuple[str, str]) -> None:
    gradients: list[Tensor | None] = [normal(5, seed=i).to(d) for i, d in enumerate(devices)]
    result = check("clip_grad_norm_", gradients, 0.5)
    assert result.device.type == devices[0]
    check("get_total_norm", gradients)


LAYOUTS: dict[str, Tensor] = {
    "0-dim": normal(1)[0].clone(),
    "one element": normal(1),
    "transposed": normal(5, 7).t(),
    "permuted": normal(3, 4, 5).permute(2, 0, 1),
    "channels_last": normal(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "every other column": normal(6, 8)[:, ::2],
    "rows of a wider matrix": normal(6, 8)[:, :5],
    "unaligned view": normal(40)[3:36],
    "column": normal(6, 8)[:, 3],
    "step of one element": normal(4, 1, 3)[:, :, ::3],
    "size-one dimension with a wild stride": torch.as_strided(normal(10), (1, 5), (3, 1)),
}


@pytest.mark.parametrize(("name", "args"), CLIPS, ids=CLIP_NAMES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_dtype_and_strides_of_gradients_never_change(
    name: str, args: tuple[Any, ...], layout: str, dtype: torch.dtype
) -> None:
    if name == "clip_grad_value_" and dtype.is_complex:
        pytest.skip("native refuses to clip complex values; see test_clip_value_of_complex_raises")
    base = LAYOUTS[layout]
    storage = torch.empty(0, dtype=base.dtype).set_(base.untyped_storage()).to(dtype)
    gradient = torch.as_strided(storage, base.size(), base.stride(), base.storage_offset())
    native, ours = side_by_side(name, [gradient, normal(4, dtype=dtype, seed=1)], *args)
    assert_same(native, ours)
    assert ours.gradients[0].stride() == gradient.stride()
    assert ours.gradients[0].dtype == dtype


@pytest.mark.parametrize(("name", "args"), CLIPS, ids=CLIP_NAMES)
def test_gaps_between_elements_stay_untouched(name: str, args: tuple[Any, ...]) -> None:
    storage = torch.full((6, 8), 7.0)
    gradient = storage[:, ::2]
    getattr(gradkern, name)(parameters_with([gradient]), *args)
    assert (storage[:, 1::2] == 7.0).all()
    assert (storage[:, ::2] != 7.0).all()


@pytest.mark.parametrize(("name", "args"), CLIPS, ids=CLIP_NAMES)
def test_gradients_stay_the_same_objects(name: str, args: tuple[Any, ...]) -> None:
    gradient = normal(5) * 10
    (parameter,) = parameters_with([gradient])
    getattr(gradkern, name)(parameter, *args)
    assert parameter.grad is gradient


def test_gradients_with_a_graph_history_are_clipped_without_recording() -> None:
    for library in (torch.nn.utils, gradkern):
        leaf = torch.full((3,), 2.0, requires_grad=True)
        gradient = leaf * 2
        history = gradient.grad_fn
        total = library.clip_grad_norm_(parameter_with(gradient), 1.0)
        assert not total.requires_grad
        assert gradient.grad_fn is history
        assert ulp_distance(gradient, [1 / math.sqrt(3)] * 3) <= 40  # the 1e-6 of the coefficient


def test_norm_of_tensors_that_require_gradients_is_not_recorded() -> None:
    check("get_total_norm", [normal(3).requires_grad_()])
    assert not gradkern.get_total_norm([torch.ones(3, requires_grad=True)]).requires_grad


def test_result_of_parameters_is_a_plain_tensor() -> None:
    parameter = torch.nn.Parameter(torch.ones(4))
    assert type(gradkern.get_total_norm([parameter])) is Tensor


def test_inside_inference_mode() -> None:
    for library in (torch.nn.utils, gradkern):
        with torch.inference_mode():
            gradient = torch.tensor([3.0, 4.0])
            total = library.clip_grad_norm_(parameter_with(gradient), 1.0)
            assert total.item() == 5.0
            assert gradient.tolist() == pytest.approx([0.6, 0.8], rel=1e-6)


@pytest.mark.parametrize(("name", "args"), CLIPS, ids=CLIP_NAMES)
def test_inference_tensors_outside_inference_mode_raise(name: str, args: tuple[Any, ...]) -> None:
    outcomes = []
    for library in (torch.nn.utils, gradkern):
        with torch.inference_mode():
            gradient = torch.tensor([30.0, 40.0])
        holder = parameter_with(gradient)
        function = getattr(library, name)
        outcomes.append(observe(lambda f=function, p=holder: f(p, *args), [gradient]))
    assert isinstance(outcomes[0].exception, RuntimeError)
    assert_same_exception(*outcomes)


def test_view_with_the_negative_bit_is_never_read_as_its_storage() -> None:
    gradient = torch.tensor([3 + 4j, 1 - 2j]).conj().imag  # -4, 2: stored as 4, -2
    assert gradient.is_neg()
    assert gradkern.get_total_norm([gradient]).item() == pytest.approx(math.sqrt(20))
    before = gradient.tolist()
    for name, args in CLIPS:
        function = getattr(gradkern, name)
        outcome = observe(lambda f=function, a=args: f(parameter_with(gradient), *a), [])
        assert isinstance(outcome.exception, RuntimeError), "as native's foreach functions"
        assert gradient.tolist() == before


def test_conjugate_view_is_clipped_right_or_refused_as_native_does() -> None:
    for library in (torch.nn.utils, gradkern):
        gradient = torch.tensor([3 + 4j]).conj()
        assert library.get_total_norm([gradient]).item() == 5.0
        with pytest.raises(RuntimeError):
            library.clip_grad_norm_(parameter_with(gradient), 1.0)
        assert gradient.item() == 3 - 4j


# --- the order of the norm ----------------------------------------------------------------------

ORDERS = [0, 0.5, 1, 2, 3, 3.5, INF, -INF, -1, -2, -3.5, NAN]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_every_order(order: float, dtype: torch.dtype) -> None:
    gradients: list[Tensor | None] = [normal(9, dtype=dtype), normal(2, 3, dtype=dtype, seed=1)]
    wide = [g.to(torch.complex128 if dtype.is_complex else torch.float64) for g in gradients]
    # native in float64, so that its own rounding to 16 bits is no excuse
    native = torch.nn.utils.get_total_norm(wide, order)
    ours = gradkern.get_total_norm(gradients, order)
    assert ours.dtype == real_dtype(dtype)
    assert ulp_distance(ours, native.item()) <= (8 if native.dtype == ours.dtype else 1)
    check("clip_grad_norm_", gradients, 0.7, order)


@pytest.mark.parametrize("order", ["inf", "-inf", "nan", "2", "1.5", True, torch.tensor(3.0)])
def test_order_is_converted_by_float(order: Any) -> None:
    check("get_total_norm", [normal(5), normal(3, seed=1)], order)
    check("clip_grad_norm_", [normal(5), normal(3, seed=1)], 0.5, order)


@pytest.mark.parametrize("order", [None, "x", 1j, [2.0], torch.tensor([1.0, 2.0])])
def test_order_that_float_refuses(order: Any) -> None:
    for name, args in (("get_total_norm", ()), ("clip_grad_norm_", (1.0,))):
        native, ours = side_by_side(name, [normal(5)], *args, norm_type=order)
        assert native.exception is not None
        assert_same_exception(native, ours)


def test_order_zero_counts_tensors_that_are_not_zero() -> None:
    gradients: list[Tensor | None] = [normal(5), torch.zeros(3), torch.empty(0), normal(2, seed=1)]
    assert check("get_total_norm", gradients, 0).item() == 2
    assert check("clip_grad_norm_", gradients, 1.0, 0).item() == 2


@pytest.mark.parametrize("value", [NAN, INF])
def test_order_zero_is_finite_where_an_element_is_not(value: float) -> None:
    assert check("get_total_norm", [torch.tensor([0.0, value]), normal(2)], 0).item() == 2


@pytest.mark.parametrize("order", [-1, -2, -3.5, -INF])
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_negative_order_with_any_zero_gives_zero_and_clips_nothing(
    order: float, dtype: torch.dtype
) -> None:
    with_zero = normal(5, dtype=dtype)
    with_zero[3] = 0
    native, ours = side_by_side("clip_grad_norm_", [normal(4, dtype=dtype), with_zero], 1e-3, order)
    assert_same(native, ours)
    assert ours.result.item() == 0
    assert all(same_bits(g, b) for g, b in zip(ours.gradients, ours.before, strict=True))


@pytest.mark.parametrize("order", [-1, -2, -3.5, -INF])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_negative_order_of_values_that_are_not_finite(order: float, value: float) -> None:
    check("get_total_norm", [torch.tensor([3.0, value]), torch.tensor([1.0, 2.0])], order)
    check("get_total_norm", [torch.tensor([value]), torch.tensor([value, value])], order)


def test_nan_order_makes_everything_nan() -> None:
    native, ours = side_by_side("clip_grad_norm_", [normal(4), normal(3, seed=1)], 1.0, NAN)
    assert_same(native, ours)
    assert math.isnan(ours.result.item())
    assert all(g.isnan().all() for g in ours.gradients)


@pytest.mark.parametrize("order", [INF, "inf", -INF, -1, -2])
@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("foreach", FOREACH)
def test_order_without_identity_of_zero_elements_raises(
    order: Any, position: int, foreach: bool | None
) -> None:
    gradients: list[Tensor | None] = [normal(3), normal(4, seed=1)]
    gradients[position] = torch.empty(0)
    for name, args in (("get_total_norm", ()), ("clip_grad_norm_", (1.0,))):
        native, ours = side_by_side(name, gradients, *args, norm_type=order, foreach=foreach)
        assert isinstance(native.exception, RuntimeError)
        assert_same_exception(native, ours)


@pytest.mark.parametrize("order", [0, 0.5, 1, 2, 3.5])
def test_order_with_identity_of_zero_elements(order: float) -> None:
    check("clip_grad_norm_", [torch.empty(0), normal(3), torch.empty(2, 0, 3)], 0.5, order)
    assert check("clip_grad_norm_", [torch.empty(0)], 0.5, order).item() == 0


# --- values that are not finite -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", REAL_DTYPES, ids=str)
def test_infinite_gradient_becomes_nan_and_the_others_zero(dtype: torch.dtype) -> None:
    gradients: list[Tensor | None] = [
        torch.tensor([3.0, INF, -INF, 0.0, -0.0, -2.0], dtype=dtype),
        normal(4, dtype=dtype),
    ]
    native, ours = side_by_side("clip_grad_norm_", gradients, 1.0)
    assert_same(native, ours)
    assert ours.result.item() == INF
    assert ours.gradients[0].isnan().tolist() == [False, True, True, False, False, False]
    assert (ours.gradients[0][[0, 3, 4, 5]] == 0).all()
    assert torch.equal(torch.signbit(ours.gradients[0][3:]), torch.signbit(native.gradients[0][3:]))
    assert (ours.gradients[1] == 0).all()


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("order", [0.5, 1, 2, 3.5, INF])
def test_nan_makes_everything_nan(dtype: torch.dtype, order: float) -> None:
    poisoned = normal(5, dtype=dtype)
    poisoned[2] = NAN
    native, ours = side_by_side("clip_grad_norm_", [normal(4, dtype=dtype), poisoned], 1.0, order)
    assert_same(native, ours)
    assert math.isnan(ours.result.item())
    assert all(
        torch.view_as_real(g).isnan().all() if g.is_complex() else g.isnan().all()
        for g in ours.gradients
    )


def test_nan_wins_over_infinity() -> None:
    for order in (0.5, 1, 2, 3.5, INF):
        check("clip_grad_norm_", [torch.tensor([INF, 1.0]), torch.tensor([NAN, -INF])], 1.0, order)


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("order", [2.0, 1, 3.5, "inf", NAN])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_error_if_nonfinite_has_natives_message_and_touches_nothing(
    dtype: torch.dtype, order: Any, value: float
) -> None:
    poisoned = normal(5, dtype=dtype)
    poisoned[2] = value
    gradients: list[Tensor | None] = [normal(4, dtype=dtype), poisoned]
    for name, args in (("clip_grad_norm_", (1.0,)), ("get_total_norm", ())):
        native, ours = side_by_side(
            name, gradients, *args, norm_type=order, error_if_nonfinite=True
        )
        assert isinstance(native.exception, RuntimeError)
        assert_same_exception(native, ours)
        assert str(ours.exception) == str(native.exception)
        assert ours.bumped() == native.bumped() == [False, False]


def test_error_if_nonfinite_message() -> None:
    with pytest.raises(RuntimeError) as raised:
        gradkern.clip_grad_norm_(parameter_with(torch.tensor([INF])), 1.0, error_if_nonfinite=True)
    assert str(raised.value) == (
        "The total norm of order 2.0 for gradients from `parameters` is non-finite, so it cannot "
        "be clipped. To disable this error and scale the gradients by the non-finite norm anyway, "
        "set `error_if_nonfinite=False`"
    )


def test_error_if_nonfinite_is_silent_where_the_total_is_finite() -> None:
    check("clip_grad_norm_", [normal(5)], 0.5, error_if_nonfinite=True)
    check("clip_grad_norm_", [torch.tensor([1.0, INF])], 0.5, 0, error_if_nonfinite=True)


# --- max_norm -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("max_norm", [1.0, 1, -1.0, 0.0, -0.0, NAN, INF, -INF, 1e-30, 1e30, True])
def test_max_norm(max_norm: float, dtype: torch.dtype) -> None:
    check("clip_grad_norm_", [normal(5, dtype=dtype), normal(3, 2, dtype=dtype, seed=1)], max_norm)
    total = torch.tensor(7.0, dtype=real_dtype(dtype))
    check("clip_grads_with_norm_", [normal(5, dtype=dtype)], max_norm, total)


def test_negative_max_norm_flips_signs_and_zero_zeroes() -> None:
    native, ours = side_by_side("clip_grad_norm_", [torch.tensor([3.0, -4.0])], -1.0)
    assert_same(native, ours)
    assert torch.signbit(ours.gradients[0]).tolist() == [True, False]
    native, ours = side_by_side("clip_grad_norm_", [torch.tensor([3.0, -4.0])], 0.0)
    assert_same(native, ours)
    assert ours.gradients[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "max_norm", ["1.0", " 2 ", torch.tensor(1.0), torch.tensor([1.0]), torch.tensor(2)]
)
def test_max_norm_is_converted_by_float(max_norm: Any) -> None:
    check("clip_grad_norm_", [normal(5)], max_norm)
    check("clip_grads_with_norm_", [normal(5)], max_norm, torch.tensor(7.0))
    check("clip_grad_value_", [normal(5)], max_norm)


@pytest.mark.parametrize("max_norm", ["x", None, 1j, [1.0], torch.tensor([1.0, 2.0])])
def test_max_norm_that_float_refuses(max_norm: Any) -> None:
    for name, args in CLIPS:
        native, ours = side_by_side(name, [normal(5) * 10], max_norm, *args[1:])
        assert native.exception is not None
        assert_same_exception(native, ours)


# --- float64 at its ends ------------------------------------------------------------------------


@pytest.mark.parametrize("order", [2, 3.5, -2, -3.5])
def test_float64_powers_overflow_as_natives(order: float) -> None:
    gradients: list[Tensor | None] = [torch.tensor([2e200, 1e200], dtype=torch.float64)]
    assert check("clip_grad_norm_", gradients, 1.0, order).item() == INF
    native, ours = side_by_side("clip_grad_norm_", gradients, 1.0, order, error_if_nonfinite=True)
    assert isinstance(native.exception, RuntimeError)
    assert_same_exception(native, ours)
    assert str(ours.exception) == str(native.exception)


@pytest.mark.parametrize("order", [1, 0.1, 0, INF])
def test_float64_orders_that_stay_finite(order: float) -> None:
    gradients: list[Tensor | None] = [torch.tensor([2e200, 1e200], dtype=torch.float64)]
    native, ours = side_by_side("clip_grad_norm_", gradients, 1.0, order, error_if_nonfinite=True)
    assert_same(native, ours, {torch.float64: 64.0})
    assert math.isfinite(ours.result.item())


# --- which tensors ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_same_parameter_twice_is_counted_and_scaled_twice(dtype: torch.dtype) -> None:
    gradient = normal(6, dtype=dtype) * 3
    other = normal(3, dtype=dtype, seed=1)
    for gradients in ([gradient, gradient], [gradient, other, gradient], [gradient] * 5):
        repeated = {d: len(gradients) * u for d, u in NATIVE_ULPS.items()}  # rounded each time
        assert_same(*side_by_side("clip_grad_norm_", list(gradients), 0.5), repeated)
        total = torch.tensor(2.0, dtype=real_dtype(dtype))
        assert_same(*side_by_side("clip_grads_with_norm_", list(gradients), 0.5, total), repeated)
        check("get_total_norm", list(gradients))


def test_tied_parameters_with_one_gradient_tensor() -> None:
    """Two parameters that share a gradient's memory, as two views of the whole of it."""
    base = normal(6) * 10
    native, ours = side_by_side("clip_grad_norm_", [base.view(2, 3), base.view(6)], 0.5)
    assert_same(native, ours)


@pytest.mark.parametrize(("name", "args"), CLIPS, ids=CLIP_NAMES)
@pytest.mark.parametrize("max_norm", [1.0, 1e6], ids=["to clip", "nothing to clip"])
def test_expanded_gradient_raises(name: str, args: tuple[Any, ...], max_norm: float) -> None:
    expanded = torch.tensor([30.0]).expand(4)
    native, ours = side_by_side(name, [expanded], max_norm, *args[1:])
    assert isinstance(native.exception, RuntimeError)
    assert_same_exception(native, ours)


@pytest.mark.parametrize(("name", "args"), CLIPS, ids=CLIP_NAMES)
def test_expanded_gradient_leaves_the_others_untouched(name: str, args: tuple[Any, ...]) -> None:
    expanded = torch.tensor([30.0]).expand(4)
    _, ours = side_by_side(name, [normal(5) * 10, expanded, normal(3) * 10], *args)
    assert isinstance(ours.exception, RuntimeError)
    assert ours.untouched()


def test_expanded_tensor_has_a_norm() -> None:
    assert check("get_total_norm", [torch.tensor([3.0]).expand(4)]).item() == 6
    check("get_total_norm", [torch.tensor([[3.0], [4.0]]).expand(2, 5), normal(3)], 3.5)
    check("get_total_norm", [torch.as_strided(normal(6), (3, 3), (1, 1))])


SPARSE = torch.sparse_coo_tensor(
    torch.tensor([[0, 2]]), torch.tensor([3.0, 4.0]), (4,), check_invariants=True
)


@pytest.mark.parametrize("foreach", FOREACH)
def test_sparse_gradients(foreach: bool | None) -> None:
    for name, args in (("get_total_norm", ()), *CLIPS):
        for gradients in ([SPARSE], [normal(3) * 10, SPARSE], [SPARSE, normal(3) * 10]):
            native, ours = side_by_side(name, list(gradients), *args, foreach=foreach)
            if name == "clip_grads_with_norm_":  # which native can do
                assert native.exception is None
                assert_same(native, ours)
                continue
            assert isinstance(native.exception, NotImplementedError)
            assert type(ours.exception) is NotImplementedError
            assert ours.untouched()


@pytest.mark.parametrize("foreach", FOREACH)
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_float8_gradients_raise(dtype: torch.dtype, foreach: bool | None) -> None:
    float8 = torch.tensor([3.0, 4.0]).to(dtype)
    for name, args in (("get_total_norm", ()), *CLIPS):
        for gradients in ([float8], [normal(3) * 10, float8], [float8, normal(3) * 10]):
            native, ours = side_by_side(name, list(gradients), *args, foreach=foreach)
            assert isinstance(native.exception, NotImplementedError)
            assert_same_exception(native, ours)  # and ours leaves the others untouched


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_complex_half_is_natives() -> None:
    gradient = torch.tensor([3 + 4j, 1j]).to(torch.complex32)
    for name, args in (("get_total_norm", ()), ("clip_grad_norm_", (1.0,))):
        assert_same(*side_by_side(name, [gradient], *args))


INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool]


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("foreach", FOREACH)
def test_integer_gradients_raise(dtype: torch.dtype, foreach: bool | None) -> None:
    for name, args in (
        ("get_total_norm", ()),
        ("clip_grad_norm_", (1.0,)),
        ("clip_grad_value_", (0.5,)),
    ):
        for gradients in ([torch.ones(3).to(dtype)], [normal(3) * 10, torch.ones(3).to(dtype)]):
            native, ours = side_by_side(name, list(gradients), *args, foreach=foreach)
            assert isinstance(native.exception, RuntimeError)
            assert type(ours.exception) is RuntimeError
            assert ours.untouched()


@pytest.mark.parametrize("foreach", [None, False])
def test_meta_tensors_alone_work(foreach: bool | None) -> None:
    meta: list[Tensor | None] = [
        torch.empty(3, device="meta"),
        torch.empty(2, 4, device="meta").t(),
    ]
    for name, args in (("get_total_norm", ()), *CLIPS):
        native, ours = side_by_side(name, meta, *args, foreach=foreach)
        assert native.exception is None
        assert_same(native, ours)
    assert gradkern.clip_grad_norm_(parameters_with(meta), 1.0).device.type == "meta"


@pytest.mark.parametrize("order", [0, 1])
def test_meta_tensors_mixed_with_cpu_raise(order: int) -> None:
    mixed: list[Tensor | None] = [normal(3) * 10, torch.empty(3, device="meta")][:: 1 - 2 * order]
    native, ours = side_by_side("clip_grad_norm_", mixed, 1.0)
    assert native.exception is not None
    assert_same_exception(native, ours)
    # native's norm of a list that begins on meta is a meta tensor
    assert_same(*side_by_side("get_total_norm", mixed))


def test_meta_tensor_with_error_if_nonfinite_raises() -> None:
    native, ours = side_by_side(
        "clip_grad_norm_", [torch.empty(3, device="meta")], 1.0, error_if_nonfinite=True
    )
    assert native.exception is not None
    assert_same_exception(native, ours)


def test_foreach_true_on_an_unsupported_device_raises() -> None:
    for name, args in (("get_total_norm", ()), *CLIPS):
        native, ours = side_by_side(name, [torch.empty(3, device="meta")], *args, foreach=True)
        assert isinstance(native.exception, RuntimeError)
        assert_same_exception(native, ours)
        assert str(ours.exception) == str(native.exception)


@pytest.mark.parametrize("foreach", FOREACH)
def test_foreach_changes_nothing_on_supported_devices(foreach: bool | None) -> None:
    gradients: list[Tensor | None] = [normal(5), normal(3, seed=1), normal(2, 2).t()]
    for name, args in (("get_total_norm", ()), *CLIPS):
        check(name, gradients, *args, foreach=foreach)


class Subclass(Tensor):
    pass


def test_tensor_subclass_is_natives() -> None:
    for name, args in (("get_total_norm", ()), *CLIPS):
        outcomes = []
        for library in (torch.nn.utils, gradkern):
            gradient = torch.tensor([3.0, 4.0]).as_subclass(Subclass)
            first = [gradient] if name == "get_total_norm" else parameter_with(gradient)
            function = getattr(library, name)
            outcomes.append(observe(lambda f=function, x=first, a=args: f(x, *a), [gradient]))
        assert_same(*outcomes)


# --- the coefficient 1 --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["dense", "gaps"])
def test_coefficient_one_keeps_every_bit_and_bumps_the_version(
    dtype: torch.dtype, layout: str
) -> None:
    gradient = normal(40, dtype=dtype)
    if layout == "gaps":
        gradient = gradient.view(5, 8)[:, ::2]
    gradient[0] = -0.0
    native, ours = side_by_side("clip_grad_norm_", [gradient, torch.empty(0, dtype=dtype)], 1e4)
    assert_same(native, ours)
    assert ours.bumped() == native.bumped() == [True, True]
    assert same_bits(ours.gradients[0], gradient)
    assert same_bits(native.gradients[0], gradient)


@pytest.mark.parametrize(("name", "args"), CLIPS, ids=CLIP_NAMES)
def test_version_is_bumped_for_every_gradient(name: str, args: tuple[Any, ...]) -> None:
    gradients: list[Tensor | None] = [
        normal(4),
        None,
        normal(2, 3)[:, ::2],
        torch.empty(0),
        normal(1)[0],
    ]
    native, ours = side_by_side(name, gradients, *args)
    assert native.bumped() == ours.bumped() == [True] * 4


def test_saved_gradient_that_was_clipped_is_noticed_by_autograd() -> None:
    leaf = torch.ones(3, requires_grad=True)
    gradient = torch.ones(3)
    loss = (leaf * gradient).sum()  # saves `gradient` for the backward pass
    gradkern.clip_grad_norm_(parameter_with(gradient), 100.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# --- clip_grads_with_norm_ ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("total", [5.0, 0.0, 1e-7, -5.0, NAN, INF, -INF])
def test_clip_with_norm(dtype: torch.dtype, total: float) -> None:
    gradients: list[Tensor | None] = [normal(5, dtype=dtype), normal(3, dtype=dtype, seed=1)]
    check("clip_grads_with_norm_", gradients, 1.0, torch.tensor(total, dtype=real_dtype(dtype)))


@pytest.mark.parametrize("total_dtype", [*REAL_DTYPES, torch.int64, torch.bool], ids=str)
def test_clip_with_norm_of_another_dtype(total_dtype: torch.dtype) -> None:
    """The total is taken as it is; native rounds the coefficient to the total's dtype, ours not."""
    total = torch.tensor(5.0).to(total_dtype)
    coefficient = exact_coefficient(total.item(), 1.0)
    for dtype in ALL_DTYPES:
        gradient = normal(5, dtype=dtype)
        native, ours = side_by_side("clip_grads_with_norm_", [gradient], 1.0, total)
        assert native.exception is ours.exception is ours.result is None
        assert ours.bumped() == [True]
        distance = ulp_distance(ours.gradients[0], scaled(gradient, coefficient))
        assert distance <= SCALING_ULPS[real_dtype(dtype)]


@pytest.mark.parametrize("total", [5.0, 1, "5.0", None, NAN])
def test_clip_with_norm_that_is_no_tensor_raises(total: Any) -> None:
    native, ours = side_by_side("clip_grads_with_norm_", [normal(5) * 10], 1.0, total)
    assert isinstance(native.exception, TypeError)
    assert_same_exception(native, ours)


@pytest.mark.parametrize(
    "total",
    [torch.tensor([5.0]), torch.tensor([[5.0]]), torch.tensor([5.0, 5.0]), torch.empty(0)],
    ids=["[5]", "[[5]]", "[5, 5]", "[]"],
)
def test_clip_with_norm_that_is_no_scalar_raises(total: Tensor) -> None:
    native, ours = side_by_side("clip_grads_with_norm_", [normal(5) * 10, normal(3)], 1.0, total)
    assert isinstance(native.exception, RuntimeError)
    assert_same_exception(native, ours)


@pytest.mark.parametrize(
    "total", [torch.tensor(5 + 0j), torch.tensor(5.0, device="meta")], ids=["complex", "meta"]
)
def test_clip_with_norm_that_native_refuses(total: Tensor) -> None:
    native, ours = side_by_side("clip_grads_with_norm_", [normal(5) * 10], 1.0, total)
    assert isinstance(native.exception, NotImplementedError)
    assert_same_exception(native, ours)


def test_clip_with_norm_does_not_change_total_norm() -> None:
    total = torch.tensor(5.0)
    gradkern.clip_grads_with_norm_(parameters_with([normal(5)]), 1.0, total)
    assert total.item() == 5.0
    assert total._version == 0


def test_clip_with_norm_of_no_gradients() -> None:
    check("clip_grads_with_norm_", [], 1.0, torch.tensor(5.0))
    check("clip_grads_with_norm_", [None], 1.0, torch.tensor(5.0))


# --- clip_grad_value_ ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", REAL_DTYPES, ids=str)
@pytest.mark.parametrize("clip_value", [0.5, 0.3, 1, 0.0, -1.0, INF, -INF, NAN, 1e-40, 6e4, "0.5"])
@pytest.mark.parametrize("foreach", FOREACH)
def test_clip_value(dtype: torch.dtype, clip_value: Any, foreach: bool | None) -> None:
    special = torch.tensor([3.0, -0.5, NAN, INF, -INF, 0.0, -0.0, 0.3, -0.3], dtype=dtype)
    gradients: list[Tensor | None] = [
        special,
        normal(37, dtype=dtype),
        normal(6, 8, dtype=dtype)[:, ::3],
    ]
    native, ours = side_by_side("clip_grad_value_", gradients, clip_value, foreach=foreach)
    assert_same(native, ours, EXACTLY)


@pytest.mark.parametrize("dtype", REAL_DTYPES, ids=str)
def test_clip_value_keeps_the_bits_of_what_is_inside(dtype: torch.dtype) -> None:
    gradient = normal(50, dtype=dtype)
    gradient[:2] = torch.tensor([-0.0, 0.0])
    native, ours = side_by_side("clip_grad_value_", [gradient], 0.75)
    assert same_bits(native.gradients[0], ours.gradients[0])


@pytest.mark.parametrize("foreach", FOREACH)
@pytest.mark.parametrize("gradients", [[], [None]], ids=["empty", "None"])
def test_clip_value_of_nothing_raises(gradients: list[Tensor | None], foreach: bool | None) -> None:
    native, ours = side_by_side("clip_grad_value_", gradients, 1.0, foreach=foreach)
    assert native.exception is not None
    assert_same_exception(native, ours)


@pytest.mark.parametrize("dtype", REAL_DTYPES, ids=str)
def test_clip_value_keeps_nan(dtype: torch.dtype) -> None:
    native, ours = side_by_side(
        "clip_grad_value_", [torch.tensor([NAN, 3.0, NAN], dtype=dtype)], 1.0
    )
    assert_same(native, ours)
    assert ours.gradients[0].isnan().tolist() == [True, False, True]


@pytest.mark.parametrize("foreach", FOREACH)
def test_clip_value_of_complex_raises(foreach: bool | None) -> None:
    for gradients in ([torch.tensor([3 + 4j])], [normal(3) * 10, torch.tensor([3 + 4j])]):
        native, ours = side_by_side("clip_grad_value_", list(gradients), 1.0, foreach=foreach)
        assert native.exception is not None
        assert type(ours.exception) is type(native.exception)
        assert ours.untouched()


def test_clip_value_of_zero_elements() -> None:
    check("clip_grad_value_", [torch.empty(0), torch.empty(2, 0)], 1.0)


# --- DTensor and torch.compile ------------------------------------------------------------------


@pytest.fixture
def one_process_group(tmp_path: Path) -> Any:
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("this torch was built without gloo")
    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    yield distributed
    distributed.destroy_process_group()


def test_dtensor_gradients_are_natives(one_process_group: Any) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (1,))
    other_mesh = init_device_mesh("cpu", (1, 1))
    totals, clipped = [], []
    for library in (torch.nn.utils, gradkern):
        gradients = [
            distribute_tensor(torch.tensor([3.0, 4.0]), mesh, [Shard(0)]),
            distribute_tensor(torch.tensor([1.0, 2.0]), mesh, [Replicate()]),
        ]
        parameters = []
        for gradient in gradients:
            parameters.append(distribute_tensor(torch.zeros(2), mesh, gradient.placements))
            parameters[-1].requires_grad_().grad = gradient
        total = library.clip_grad_norm_(parameters, 1.0)
        assert isinstance(total, DTensor)
        totals.append((total.placements, total.full_tensor().item()))
        clipped.append([g.full_tensor().tolist() for g in gradients])
        elsewhere = distribute_tensor(torch.ones(1, 2), other_mesh, [Shard(0), Replicate()])
        with pytest.raises(RuntimeError):
            library.get_total_norm([gradients[0], elsewhere])
        with pytest.raises(RuntimeError):
            library.get_total_norm([gradients[0], torch.ones(2)])
    assert totals[0] == totals[1]
    assert clipped[0] == clipped[1]


def test_compiles_to_a_full_graph_unless_error_if_nonfinite() -> None:
    for library in (torch.nn.utils, gradkern):
        torch._dynamo.reset()

        def step(parameters: list[Tensor], strict: bool, lib: Any = library) -> Tensor:
            return lib.clip_grad_norm_(parameters, 1.0, error_if_nonfinite=strict)

        compiled = torch.compile(step, fullgraph=True, backend="eager")
        gradient = torch.tensor([3.0, 4.0])
        assert compiled(parameters_with([gradient]), False).item() == 5.0
        assert gradient.tolist() == pytest.approx([0.6, 0.8], rel=1e-6)
        with pytest.raises(torch._dynamo.exc.TorchDynamoException):
            compiled(parameters_with([gradient]), True)


# --- better on purpose 1: right at the extremes -------------------------------------------------


@pytest.mark.parametrize("order", [0.5, 1, 2, 3, 3.5, 20, INF])
@pytest.mark.parametrize("value", [1e-45, 1e-40, 1e-26, 1e-20, 1e19, 1e30, 1e38])
def test_improved_float32_totals_neither_underflow_nor_overflow(order: float, value: float) -> None:
    gradients = [torch.full((700,), value), torch.full((300,), -value)]
    expected = exact_norm(gradients, order)
    total = gradkern.get_total_norm(gradients, order)
    assert ulp_distance(total, expected) <= 1


def test_improved_total_of_a_thousand_1e19() -> None:
    gradient = torch.full((1000,), 1e19)
    assert torch.nn.utils.get_total_norm([gradient]).item() == INF
    assert (
        ulp_distance(gradkern.get_total_norm([gradient]), math.sqrt(1000) * components(gradient)[0])
        <= 1
    )


@pytest.mark.parametrize("dtype", REAL_DTYPES, ids=str)
@pytest.mark.parametrize("order", [1, 2, 3.5, INF])
def test_improved_one_largest_and_one_smallest_number_have_their_own_norm(
    dtype: torch.dtype, order: float
) -> None:
    info = torch.finfo(dtype)
    ends = [info.max, info.smallest_normal, info.smallest_normal * info.eps]
    if dtype == torch.float64:  # whose squares are promised between 1e-150 and 1e150
        ends = [1e150, 1e-150] if order != 3.5 else [1e80, 1e-80]
    # a power and its root, both rounded: |log(1e80 ** 3.5)| / 3.5 units of the last place and more
    ulps = 256 if dtype == torch.float64 and order == 3.5 else 1
    for end in ends:
        gradient = torch.tensor([0.0, -end, 0.0], dtype=dtype)
        assert ulp_distance(gradkern.get_total_norm([gradient], order), end) <= ulps


def test_improved_exploding_gradients_are_clipped_to_length() -> None:
    for value in (1e19, 1e30, 1e38):
        gradients = [torch.full((600,), value), torch.full((20, 20), -value)]
        gradkern.clip_grad_norm_(parameters_with(gradients), 1.0)
        assert exact_norm(gradients) == pytest.approx(1.0, rel=1e-5)


def test_improved_vanishing_gradients_keep_their_bits_and_have_a_norm() -> None:
    gradient = torch.full((1000,), 1e-26)
    before = gradient.clone()
    total = gradkern.clip_grad_norm_(parameter_with(gradient), 1.0)
    assert ulp_distance(total, exact_norm(before)) <= 1
    assert same_bits(gradient, before)


# --- better on purpose 2: one rounding, no dependence on grouping -------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_improved_16_bit_partial_norms_are_not_rounded(dtype: torch.dtype) -> None:
    gradients = [normal(50, dtype=dtype, seed=i) for i in range(40)]
    with_float32 = [*gradients, torch.zeros(1)]  # so that the result is float32
    total = gradkern.get_total_norm(with_float32)
    expected = exact_norm(gradients)
    assert total.dtype == torch.float32
    assert ulp_distance(total, expected) <= 1
    native = torch.nn.utils.get_total_norm(with_float32)
    assert ulp_distance(native, expected) > 100, "native rounds; otherwise this tests nothing"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("order", [1, 2, 3.5, INF])
def test_improved_total_does_not_depend_on_grouping_or_order(
    dtype: torch.dtype, order: float
) -> None:
    whole = normal(4096, dtype=dtype)
    expected = exact_norm(whole, order)
    for sizes in ([4096], [1] * 96 + [4000], [2048, 2048], [63] * 65 + [1], [4095, 1]):
        parts = list(whole.split(sizes))
        assert ulp_distance(gradkern.get_total_norm(parts, order), expected) <= 1
        assert ulp_distance(gradkern.get_total_norm(parts[::-1], order), expected) <= 1


def test_improved_float16_beyond_its_range_is_clipped_to_length_and_no_error() -> None:
    gradients = [
        torch.full((100,), 60000.0, dtype=torch.float16),
        torch.full((3,), -60000.0, dtype=torch.float16),
    ]
    expected = exact_coefficient(exact_norm(gradients), 10.0)
    want = [scaled(g, expected) for g in gradients]
    total = gradkern.clip_grad_norm_(parameters_with(gradients), 10.0, error_if_nonfinite=True)
    assert total.dtype == torch.float16
    assert total.item() == INF, "the true total, 608933, is rounded to the result's dtype"
    for gradient, right in zip(gradients, want, strict=True):
        assert ulp_distance(gradient, right) <= SCALING_ULPS[torch.float16]


def test_improved_error_if_nonfinite_judges_the_unrounded_total() -> None:
    gradients = [torch.full((2,), 60000.0, dtype=torch.float16)]
    assert gradkern.get_total_norm(gradients, error_if_nonfinite=True).item() == INF
    with pytest.raises(RuntimeError, match="non-finite"):
        torch.nn.utils.get_total_norm(gradients, error_if_nonfinite=True)


def test_improved_float32_beyond_its_range_is_clipped_to_length() -> None:
    gradients = [torch.full((1000,), 1e38)]
    total = gradkern.clip_grad_norm_(parameters_with(gradients), 1.0, error_if_nonfinite=True)
    assert total.item() == INF
    assert exact_norm(gradients) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("order", [1, 2, 3.5, INF])
def test_improved_coefficient_comes_from_the_unrounded_total(
    dtype: torch.dtype, order: float
) -> None:
    gradients = [normal(300, dtype=dtype), normal(20, 20, dtype=dtype, seed=1)]
    coefficient = exact_coefficient(exact_norm(gradients, order), 0.37)
    want = [scaled(g, coefficient) for g in gradients]
    gradkern.clip_grad_norm_(parameters_with(gradients), 0.37, order)
    for gradient, right in zip(gradients, want, strict=True):
        assert ulp_distance(gradient, right) <= SCALING_ULPS[real_dtype(dtype)]


# --- better on purpose 3: nothing to clip, nothing written --------------------------------------

READ_ONLY = """
import sys, warnings
import numpy, torch
import gradkern
warnings.simplefilter("ignore")  # torch warns of arrays that it could not write to
for name, dtype in (("<f4", torch.float32), ("<f8", torch.float64), ("<f2", torch.float16),
                    ("<i2", torch.bfloat16), ("<c8", torch.complex64)):
    array = numpy.memmap(sys.argv[1], dtype=name, mode="r", shape=(70001,))
    gradient = torch.from_numpy(array)
    gradient = gradient.view(torch.bfloat16) if dtype is torch.bfloat16 else gradient
    parameter = torch.zeros(gradient.shape, dtype=dtype)
    parameter.grad = gradient
    total = gradkern.clip_grad_norm_(parameter, float("inf"))
    gradkern.clip_grads_with_norm_(parameter, 1.0, torch.tensor(1.0 - 1e-6, dtype=torch.float64))
    gradkern.clip_grad_norm_with_stats_(parameter, float("inf"))
    assert gradient._version > 0
print("nothing written")
"""


def test_improved_coefficient_one_writes_nothing(tmp_path: Path) -> None:
    """The gradients are mapped read-only: a single store to them would end the process."""
    file = tmp_path / "gradients"
    file.write_bytes(bytes(70001 * 8))
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"signal {-done.returncode}: {done.stderr}"
    assert done.stdout == "nothing written\n"
