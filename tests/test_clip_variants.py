"""The clipping functions on every device: values against exact references, layouts, lists.

How they answer to the arguments of native is in test_clip_semantics.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from exact_reference import (
    ALL_DTYPES,
    REAL_DTYPES,
    SCALING_ULPS,
    components,
    exact_coefficient,
    exact_norm,
    magnitudes,
    norm_of_magnitudes,
    real_dtype,
    same_bits,
    scaled,
    ulp_distance,
)
from side_by_side import copies_with_layout, parameters_with
from simt.emulator import guarded_tensor, padding_is_intact
from torch import Tensor

import gradkern

INF = math.inf
NAN = math.nan
Layouts = dict[str, Tensor]


def normal(backend: Any, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_complex:
        parts = torch.randn((*shape, 2), generator=generator, dtype=torch.float64)
        return torch.view_as_complex(parts).to(dtype).to(backend.device)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(backend.device)


def layouts(backend: Any, dtype: torch.dtype) -> Layouts:
    """Gradients of every layout that a program can come by."""

    def base(seed: int) -> Tensor:
        return normal(backend, 4, 6, 5, 3, dtype=dtype, seed=seed)

    return {
        "contiguous": base(0),
        "transposed": base(1).transpose(0, 2),
        "channels_last": base(2).contiguous(memory_format=torch.channels_last),
        "gaps": base(3)[:, ::2],
        "gaps in the last dimension": base(4)[..., ::2],
        "rows": base(5)[:, 1:4],
        "column": base(6)[:, 3, 2, 1],
        "unaligned": base(7).reshape(-1)[1:-2],
        "unaligned matrix": base(8).reshape(-1)[3:353].view(35, 10),
        "0-dim": base(9)[1, 2, 3, 1],
        "zero elements": base(10)[:, :0],
        "one element": base(11)[:1, 0, 0, 0],
        "many units of one": base(12).reshape(-1, 1)[:, 0:1],
    }


def clip_value_reference(values: np.ndarray, bound: float) -> np.ndarray:
    return np.where(np.isnan(values), values, np.clip(values, -bound, bound))


def storage_without(tensor: Tensor) -> Tensor:
    """A mask over the tensor's storage: true where the tensor has no element."""
    size = tensor.untyped_storage().nbytes() // tensor.element_size()
    mask = torch.ones(size, dtype=torch.bool)
    torch.as_strided(mask, tensor.size(), tensor.stride(), tensor.storage_offset()).fill_(False)
    return mask


def whole_storage(tensor: Tensor) -> Tensor:
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())


# --- all functions on all layouts ---------------------------------------------------------------

TOTAL = 3.0
Clip = Callable[[list[Tensor]], Any]
Reference = Callable[[list[Tensor]], list[np.ndarray]]


def each_coefficient(norm: float, max_norm: float) -> float:
    """Keras' clipnorm: max_norm / max(norm, max_norm)."""
    return 1.0 if norm <= max_norm else max_norm / norm


def by_total_norm(order: float) -> Reference:
    def reference(gradients: list[Tensor]) -> list[np.ndarray]:
        coefficient = exact_coefficient(exact_norm(gradients, order), 0.7)
        return [scaled(gradient, coefficient) for gradient in gradients]

    return reference


def by_given_norm(gradients: list[Tensor]) -> list[np.ndarray]:
    return [scaled(gradient, exact_coefficient(TOTAL, 0.7)) for gradient in gradients]


def by_each_norm(order: float) -> Reference:
    def reference(gradients: list[Tensor]) -> list[np.ndarray]:
        norms = [exact_norm(gradient, order) for gradient in gradients]
        return [scaled(g, each_coefficient(n, 0.7)) for g, n in zip(gradients, norms, strict=True)]

    return reference


def by_value(gradients: list[Tensor]) -> list[np.ndarray]:
    return [clip_value_reference(components(gradient), 0.5) for gradient in gradients]


def clip_with_given_norm(parameters: list[Tensor]) -> None:
    total = torch.tensor(TOTAL, dtype=torch.float64, device=parameters[0].device)
    gradkern.clip_grads_with_norm_(parameters, 0.7, total)


CLIPS: dict[str, tuple[Clip, Reference]] = {
    "clip_grad_norm_": (lambda p: gradkern.clip_grad_norm_(p, 0.7), by_total_norm(2)),
    "clip_grad_norm_ order 1": (lambda p: gradkern.clip_grad_norm_(p, 0.7, 1), by_total_norm(1)),
    "clip_grad_norm_ order 3.5": (
        lambda p: gradkern.clip_grad_norm_(p, 0.7, 3.5),
        by_total_norm(3.5),
    ),
    "clip_grad_norm_with_stats_": (
        lambda p: gradkern.clip_grad_norm_with_stats_(p, 0.7),
        by_total_norm(2),
    ),
    "clip_grad_norm_with_stats_ order 1": (
        lambda p: gradkern.clip_grad_norm_with_stats_(p, 0.7, 1),
        by_total_norm(1),
    ),
    "clip_grads_with_norm_": (clip_with_given_norm, by_given_norm),
    "clip_grad_norm_per_tensor_": (
        lambda p: gradkern.clip_grad_norm_per_tensor_(p, 0.7),
        by_each_norm(2),
    ),
    "clip_grad_norm_per_tensor_ order 1": (
        lambda p: gradkern.clip_grad_norm_per_tensor_(p, 0.7, 1),
        by_each_norm(1),
    ),
    "clip_grad_value_": (lambda p: gradkern.clip_grad_value_(p, 0.5), by_value),
}


def applies(name: str, dtype: torch.dtype) -> bool:
    return not (name == "clip_grad_value_" and dtype.is_complex)


CASES = [(name, dtype) for name in CLIPS for dtype in ALL_DTYPES if applies(name, dtype)]


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=lambda x: str(x))
def test_every_layout_alone_and_together(backend: Any, name: str, dtype: torch.dtype) -> None:
    clip, reference = CLIPS[name]
    every = layouts(backend, dtype)
    groups = [[layout] for layout in every] + [list(every)]
    for group in groups:
        gradients = [t for t in copies_with_layout([every[k] for k in group]) if t is not None]
        expected = reference(gradients)
        strides = [g.stride() for g in gradients]
        versions = [g._version for g in gradients]
        untouched = [(storage_without(g), whole_storage(g).clone()) for g in gradients]
        clip(parameters_with(gradients))
        for key, gradient, want in zip(group, gradients, expected, strict=True):
            assert ulp_distance(gradient, want) <= SCALING_ULPS[real_dtype(dtype)], key
        assert [g.stride() for g in gradients] == strides
        assert all(g._version > v for g, v in zip(gradients, versions, strict=True))
        for key, gradient, (mask, before) in zip(group, gradients, untouched, strict=True):
            after = whole_storage(gradient)
            mask = mask.to(after.device)
            assert same_bits(after[mask], before[mask]), f"{key}: wrote beside its elements"


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=lambda x: str(x))
def test_every_remainder(backend: Any, name: str, dtype: torch.dtype) -> None:
    clip, reference = CLIPS[name]
    sizes = [*range(1, 36), 63, 64, 65, 127, 129, 255, 257, 1025, 4099]
    gradients = [normal(backend, n, dtype=dtype, seed=n) for n in sizes]
    expected = reference(gradients)
    clip(parameters_with(gradients))
    for gradient, want in zip(gradients, expected, strict=True):
        assert ulp_distance(gradient, want) <= SCALING_ULPS[real_dtype(dtype)]


@pytest.mark.parametrize("name", CLIPS)
def test_bits_do_not_depend_on_alignment_or_neighbours(backend: Any, name: str) -> None:
    clip, _ = CLIPS[name]
    for dtype in REAL_DTYPES:
        values = normal(backend, 1000, dtype=dtype, seed=5)
        seen = []
        for offset in (0, 1, 2, 3, 7):
            buffer = torch.full((1016,), 5.0, dtype=dtype, device=backend.device)
            gradient = buffer[offset : offset + 1000].copy_(values)
            clip(parameters_with([gradient]))
            assert (buffer[:offset] == 5).all()
            assert (buffer[offset + 1000 :] == 5).all()
            seen.append(gradient.clone())
        assert all(same_bits(s, seen[0]) for s in seen)


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("count", [1, 10_000])
def test_one_and_ten_thousand_tensors(backend: Any, name: str, count: int) -> None:
    if backend.name == "simt":
        count = min(count, 1200)
    clip, reference = CLIPS[name]
    whole = normal(backend, 4 * count)
    gradients = [whole[4 * i : 4 * i + 1 + i % 4] for i in range(count)]
    used = np.arange(4)[None, :] <= np.arange(count)[:, None] % 4
    values = np.where(used, components(whole).reshape(count, 4), 0.0)
    if "per_tensor" in name:
        norms = np.abs(values).sum(1) if "order 1" in name else np.sqrt(np.square(values).sum(1))
        expected = (values * np.minimum(0.7 / norms, 1.0)[:, None])[used]
    else:  # one factor for all
        (expected,) = reference([torch.cat(gradients)])
    clip(parameters_with(gradients))
    assert ulp_distance(torch.cat(gradients), expected) <= SCALING_ULPS[torch.float32]


@pytest.mark.parametrize("name", [n for n in CLIPS if n != "clip_grad_value_"])
def test_mixed_dtypes(backend: Any, name: str) -> None:
    clip, reference = CLIPS[name]
    gradients = [normal(backend, 50 + i, dtype=d, seed=i) for i, d in enumerate(ALL_DTYPES * 2)]
    gradients.append(normal(backend, 6, 8, dtype=torch.bfloat16, seed=20)[:, ::2])
    expected = reference(gradients)
    clip(parameters_with(gradients))
    for gradient, want in zip(gradients, expected, strict=True):
        assert ulp_distance(gradient, want) <= SCALING_ULPS[real_dtype(gradient.dtype)]


@pytest.mark.parametrize("name", CLIPS)
def test_same_tensor_twice_is_clipped_twice(backend: Any, name: str) -> None:
    """As native does; each time by the factor of the norms before."""
    clip, reference = CLIPS[name]
    for make in (lambda: normal(backend, 30), lambda: normal(backend, 6, 10)[:, ::2]):
        gradient, other = make(), normal(backend, 9, seed=1)
        for some in (
            [gradient, gradient],
            [other, gradient, gradient],
            [gradient, other, gradient],
        ):
            gradients = [g for g in copies_with_layout(some) if g is not None]
            before = components(gradients[-1])
            once = reference(gradients)[-1]
            with np.errstate(divide="ignore", invalid="ignore"):
                expected = np.where(before == 0, 0, once * (once / before))
            if name == "clip_grad_value_":
                expected = once
            clip(parameters_with(gradients))
            assert ulp_distance(gradients[-1], expected) <= 4 * SCALING_ULPS[torch.float32]


@pytest.mark.parametrize("name", CLIPS)
def test_views_that_interleave_without_sharing_elements(backend: Any, name: str) -> None:
    clip, reference = CLIPS[name]
    base = normal(backend, 40, 6)
    gradients = [base[:, ::2], base[:, 1::2]]
    expected = reference(gradients)
    clip(parameters_with(gradients))
    for gradient, want in zip(gradients, expected, strict=True):
        assert ulp_distance(gradient, want) <= SCALING_ULPS[torch.float32]


@pytest.mark.parametrize("name", CLIPS)
def test_views_that_share_some_elements(backend: Any, name: str) -> None:
    """Shared elements are clipped once for each view that has them, as by native's loop."""
    clip, reference = CLIPS[name]
    base = normal(backend, 600)
    first, second = base[:400], base[200:]
    factors = [
        w / components(g) for g, w in zip([first, second], reference([first, second]), strict=True)
    ]
    expected = components(base)
    expected[:400] *= factors[0]
    expected[200:] *= factors[1]
    if name == "clip_grad_value_":
        expected = clip_value_reference(components(base), 0.5)
    clip(parameters_with([first, second]))
    assert ulp_distance(base, expected) <= 4 * SCALING_ULPS[torch.float32]


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nothing_to_clip_keeps_every_bit(backend: Any, name: str, dtype: torch.dtype) -> None:
    clip, _ = CLIPS[name]
    gradients = [
        normal(backend, 500, dtype=dtype) * 1e-4,
        normal(backend, 6, 8, dtype=dtype)[:, ::2] * 1e-4,
    ]
    gradients[0][3] = -0.0
    if name == "clip_grads_with_norm_":
        pytest.skip("its norm is given, and asks for clipping")
    before = [g.clone() for g in gradients]
    versions = [g._version for g in gradients]
    clip(parameters_with(gradients))
    assert all(same_bits(g, b) for g, b in zip(gradients, before, strict=True))
    assert all(g._version > v for g, v in zip(gradients, versions, strict=True))


@pytest.mark.parametrize("name", CLIPS)
def test_expanded_gradient_raises_and_nothing_is_touched(backend: Any, name: str) -> None:
    clip, _ = CLIPS[name]
    gradients = [
        normal(backend, 10) * 10,
        torch.tensor([30.0], device=backend.device).expand(4),
        normal(backend, 5) * 10,
    ]
    before = [g.clone() for g in gradients]
    with pytest.raises(RuntimeError):
        clip(parameters_with(gradients))
    assert all(same_bits(g, b) for g, b in zip(gradients, before, strict=True))


@pytest.mark.parametrize("name", CLIPS)
def test_gradients_without_any(name: str) -> None:
    clip, _ = CLIPS[name]
    parameters = [torch.nn.Parameter(torch.ones(3))]
    if name == "clip_grad_value_":
        with pytest.raises(RuntimeError):
            clip(parameters)
        return
    clip(parameters)
    assert parameters[0].grad is None


@pytest.mark.parametrize("aligned", [None, True, False])
@pytest.mark.parametrize("name", CLIPS)
def test_nothing_beyond_the_end_is_read_or_written(
    backend: Any, name: str, aligned: bool | None
) -> None:
    """Each gradient lies between NaNs and ends at a page whose touch ends the process."""
    if backend.device.type == "cuda":
        pytest.skip("compute-sanitizer watches the GPU's memory")
    clip, reference = CLIPS[name]
    for dtype in ALL_DTYPES:
        if not applies(name, dtype) or (dtype == torch.complex128 and aligned is False):
            continue
        sizes = [*range(1, 19), 31, 33, 63, 65, 127, 257]
        values = [normal(backend, n, dtype=dtype, seed=n) for n in sizes]
        gradients = [guarded_tensor(v, aligned=aligned) for v in values]
        expected = reference(values)
        clip(parameters_with(gradients))
        for gradient, want in zip(gradients, expected, strict=True):
            assert ulp_distance(gradient, want) <= SCALING_ULPS[real_dtype(dtype)]
            assert padding_is_intact(gradient)


# --- clip_grad_norm_ and clip_grads_with_norm_ --------------------------------------------------


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_result_is_the_total_norm_before(backend: Any, dtype: torch.dtype) -> None:
    gradients = [normal(backend, 30, dtype=dtype), normal(backend, 5, 6, dtype=dtype, seed=1)]
    before = gradkern.get_total_norm(gradients)
    total = gradkern.clip_grad_norm_(parameters_with(gradients), 0.5)
    assert same_bits(total, before)
    assert total.device == gradients[0].device
    assert exact_norm(gradients) == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("max_norm", [-1.0, 0.0, NAN, INF, -INF, 1e-30])
def test_special_max_norms(backend: Any, max_norm: float) -> None:
    for dtype in REAL_DTYPES:
        gradients = [normal(backend, 100, dtype=dtype), normal(backend, 9, dtype=dtype, seed=1)]
        coefficient = exact_coefficient(exact_norm(gradients), max_norm)
        expected = [scaled(g, coefficient) for g in gradients]
        gradkern.clip_grad_norm_(parameters_with(gradients), max_norm)
        for gradient, want in zip(gradients, expected, strict=True):
            assert ulp_distance(gradient, want) <= SCALING_ULPS[dtype]


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("place", [0, 99, 4098])
def test_values_that_are_not_finite(
    backend: Any, dtype: torch.dtype, value: float, place: int
) -> None:
    gradients = [normal(backend, 4099, dtype=dtype), normal(backend, 40, dtype=dtype, seed=1)]
    gradients[0][place] = value
    total = gradkern.clip_grad_norm_(parameters_with(gradients), 1.0)
    if math.isnan(value):
        assert math.isnan(total.item())
        assert all(np.isnan(components(g)).all() for g in gradients)
        return
    assert total.item() == INF
    step = 2 if dtype.is_complex else 1
    spoiled = components(gradients[0])
    assert np.isnan(spoiled[place * step])
    rest = np.delete(spoiled, [place * step, place * step + step - 1])
    assert (rest == 0).all()
    assert (components(gradients[1]) == 0).all()


def test_clip_with_norm_takes_a_total_of_any_device(backend: Any) -> None:
    for device in ("cpu", backend.device):
        gradient = torch.tensor([3.0, 4.0], device=backend.device)
        total = torch.tensor(5.0, device=device)
        gradkern.clip_grads_with_norm_(parameters_with([gradient]), 1.0, total)
        assert gradient.tolist() == pytest.approx([0.6, 0.8], rel=1e-6)


def test_norm_then_clip_is_clip(backend: Any) -> None:
    """The two halves, with the norm in between in float64, are the whole."""
    gradients = [normal(backend, 500), normal(backend, 30, seed=1)]
    copies = [g.clone() for g in gradients]
    gradkern.clip_grad_norm_(parameters_with(gradients), 0.3)
    with_float64 = [*copies, torch.zeros(1, dtype=torch.float64, device=backend.device)]
    total = gradkern.get_total_norm(with_float64)
    gradkern.clip_grads_with_norm_(parameters_with(copies), 0.3, total)
    assert all(same_bits(g, c) for g, c in zip(gradients, copies, strict=True))


# --- clip_grad_norm_with_stats_ -----------------------------------------------------------------


@pytest.mark.parametrize("order", [0, 0.5, 1, 2, 3.5, INF, "inf", -1])
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_with_stats_is_stats_and_then_clip(backend: Any, dtype: torch.dtype, order: Any) -> None:
    gradients = [
        normal(backend, 700, dtype=dtype),
        normal(backend, 6, 8, dtype=dtype, seed=1)[:, ::2],
    ]
    gradients[0][::5] = 0
    gradients[1][0, 0] = -0.0
    copies = [g for g in copies_with_layout(gradients) if g is not None]
    stats_before = gradkern.tensor_stats(gradients)
    total, stats = gradkern.clip_grad_norm_with_stats_(parameters_with(gradients), 0.1, order)
    assert isinstance(stats, gradkern.TensorStats)
    assert same_bits(stats.values, stats_before.values), "the statistics before clipping"
    assert same_bits(total, gradkern.clip_grad_norm_(parameters_with(copies), 0.1, order))
    assert all(same_bits(g, c) for g, c in zip(gradients, copies, strict=True))


@pytest.mark.parametrize("order", [1, 2, 3.5, INF])
def test_with_stats_counts_what_is_not_finite(backend: Any, order: float) -> None:
    for value in (NAN, INF):
        gradients = [normal(backend, 300), normal(backend, 20, seed=1)]
        gradients[0][7] = value
        copies = [g.clone() for g in gradients]
        total, stats = gradkern.clip_grad_norm_with_stats_(parameters_with(gradients), 1.0, order)
        assert not math.isfinite(total.item())
        assert stats.nans.tolist() == [1.0 if math.isnan(value) else 0.0, 0.0]
        assert stats.infs.tolist() == [0.0 if math.isnan(value) else 1.0, 0.0]
        gradkern.clip_grad_norm_(parameters_with(copies), 1.0, order)
        assert all(
            torch.equal(g.isnan(), c.isnan()) for g, c in zip(gradients, copies, strict=True)
        )


def test_with_stats_error_if_nonfinite_touches_nothing(backend: Any) -> None:
    gradients = [normal(backend, 300) * 10, normal(backend, 20, seed=1)]
    gradients[1][3] = INF
    before = [g.clone() for g in gradients]
    with pytest.raises(RuntimeError, match=r"The total norm of order 2\.0 for gradients"):
        gradkern.clip_grad_norm_with_stats_(
            parameters_with(gradients), 1.0, error_if_nonfinite=True
        )
    assert all(same_bits(g, b) for g, b in zip(gradients, before, strict=True))
    gradients = [torch.full((3,), 60000.0, dtype=torch.float16, device=backend.device)]
    total, _ = gradkern.clip_grad_norm_with_stats_(
        parameters_with(gradients), 1.0, error_if_nonfinite=True
    )
    assert total.item() == INF, "the unrounded total is finite"
    assert exact_norm(gradients) == pytest.approx(1.0, rel=1e-3)


def test_with_stats_of_no_gradients() -> None:
    total, stats = gradkern.clip_grad_norm_with_stats_([torch.nn.Parameter(torch.ones(2))], 1.0)
    assert total.item() == 0
    assert stats.values.shape == (0, 8)
    total, stats = gradkern.clip_grad_norm_with_stats_([], 1.0)
    assert same_bits(total, torch.tensor(0.0))


def test_with_stats_skips_parameters_without_gradients(backend: Any) -> None:
    gradients = [None, normal(backend, 5), None, normal(backend, 7, seed=1)]
    _, stats = gradkern.clip_grad_norm_with_stats_(parameters_with(gradients), 1.0)
    assert stats.count.tolist() == [5, 7]


# --- clip_grad_norm_per_tensor_ -----------------------------------------------------------------


def keras_clipnorm(values: np.ndarray, clipnorm: float) -> np.ndarray:
    """keras.optimizers.Optimizer._clip_by_norm, in float64 NumPy."""
    l2sum = np.sum(np.square(values), keepdims=True)
    l2norm = np.where(l2sum > 0, np.sqrt(np.where(l2sum > 0, l2sum, 1.0)), l2sum)
    return values * clipnorm / np.maximum(l2norm, clipnorm)


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("max_norm", [1.0, 10.0, 1e-3, 1e6])
def test_per_tensor_is_keras_clipnorm(backend: Any, dtype: torch.dtype, max_norm: float) -> None:
    gradients = [
        normal(backend, 1000, dtype=dtype),
        normal(backend, 30, dtype=dtype, seed=1) * 0.01,
        torch.zeros(8, dtype=dtype, device=backend.device),
        normal(backend, 6, 8, dtype=dtype, seed=2)[:, ::2],
        torch.empty(0, dtype=dtype, device=backend.device),
        torch.tensor(-20.0, dtype=dtype, device=backend.device),
    ]
    expected = [keras_clipnorm(components(g), max_norm) for g in gradients]
    before = [exact_norm(g) for g in gradients]
    norms = gradkern.clip_grad_norm_per_tensor_(parameters_with(gradients), max_norm)
    assert norms.dtype == torch.float64
    assert norms.shape == (6,)
    assert norms.device == gradients[0].device
    assert ulp_distance(norms, before) <= 45
    for gradient, want in zip(gradients, expected, strict=True):
        assert ulp_distance(gradient, want) <= SCALING_ULPS[real_dtype(dtype)]


@pytest.mark.parametrize("order", [0, 0.5, 1, 3, 3.5, INF])
def test_per_tensor_orders(backend: Any, order: float) -> None:
    gradients = [normal(backend, 100), normal(backend, 7, seed=1) * 0.01]
    expected = []
    for g in gradients:
        norm = norm_of_magnitudes(magnitudes(g), order)
        expected.append(scaled(g, each_coefficient(norm, 0.5)))
    norms = gradkern.clip_grad_norm_per_tensor_(parameters_with(gradients), 0.5, norm_type=order)
    assert norms.shape == (2,)
    for gradient, want in zip(gradients, expected, strict=True):
        assert ulp_distance(gradient, want) <= SCALING_ULPS[torch.float32]


def test_per_tensor_keeps_one_tensors_nan_to_itself(backend: Any) -> None:
    gradients = [normal(backend, 50), normal(backend, 50, seed=1), normal(backend, 50, seed=2)]
    gradients[1][4] = NAN
    expected = [scaled(g, each_coefficient(exact_norm(g), 1.0)) for g in gradients]
    norms = gradkern.clip_grad_norm_per_tensor_(parameters_with(gradients), 1.0)
    assert norms.isnan().tolist() == [False, True, False]
    for gradient, want in zip(gradients, expected, strict=True):
        assert ulp_distance(gradient, want) <= SCALING_ULPS[torch.float32]


def test_per_tensor_at_the_extremes(backend: Any) -> None:
    gradients = [torch.full((500,), v, device=backend.device) for v in (1e19, 1e38, 1e-26)]
    norms = gradkern.clip_grad_norm_per_tensor_(parameters_with(gradients), 1.0)
    assert norms.tolist() == pytest.approx(
        [1e19 * 500**0.5, 1e38 * 500**0.5, 1e-26 * 500**0.5], rel=1e-6
    )
    for gradient, length in zip(gradients, (1.0, 1.0, 1e-26 * 500**0.5), strict=True):
        assert exact_norm(gradient) == pytest.approx(length, rel=1e-5)


def test_per_tensor_of_no_gradients() -> None:
    norms = gradkern.clip_grad_norm_per_tensor_([torch.nn.Parameter(torch.ones(2))], 1.0)
    assert norms.shape == (0,)
    assert norms.dtype == torch.float64


# --- adaptive_clip_grad_ ------------------------------------------------------------------------


def timm_unitwise_norm(x: Tensor, norm_type: float = 2.0) -> Tensor:
    if x.ndim <= 1:
        return torch.linalg.vector_norm(x, norm_type)
    return torch.linalg.vector_norm(x, norm_type, dim=tuple(range(1, x.ndim)), keepdim=True)


def timm_adaptive_clip_grad(
    parameter: Tensor, gradient: Tensor, clip_factor: float, eps: float, norm_type: float = 2.0
) -> np.ndarray:
    """timm.utils.agc.adaptive_clip_grad of one parameter, in float64; its components."""
    wide = torch.complex128 if gradient.is_complex() else torch.float64
    p, g = parameter.detach().to(wide), gradient.detach().to(wide)
    max_norm = timm_unitwise_norm(p, norm_type).clamp_(min=eps).mul_(clip_factor)
    grad_norm = timm_unitwise_norm(g, norm_type)
    clipped_grad = g * (max_norm / grad_norm.clamp(min=1e-6))
    return components(torch.where(grad_norm < max_norm, g, clipped_grad))


def agc_parameters(backend: Any, dtype: torch.dtype, scale: float = 0.02) -> list[Tensor]:
    """Weights and gradients: some units to clip, some not, one of zeros, one parameter frozen."""
    shapes = [
        (16, 7),
        (5, 3, 3, 3),
        (9,),
        (),
        (4, 1),
        (1, 30),
        (2, 3, 4),
        (3, 0),
        (0, 3),
        (0,),
        (6, 600),
    ]
    parameters = []
    for i, shape in enumerate(shapes):
        parameter = normal(backend, *shape, dtype=dtype, seed=2 * i).requires_grad_()
        gradient = normal(backend, *shape, dtype=dtype, seed=2 * i + 1) * scale
        if gradient.dim() > 1 and gradient.shape[0] > 2 and gradient.numel():
            gradient[1] *= 0.1
            gradient[2] = 0
            with torch.no_grad():
                parameter[0] = 0  # the weight's norm is below eps
        parameter.grad = gradient
        parameters.append(parameter)
    parameters.insert(3, torch.nn.Parameter(torch.ones(3, device=backend.device)))
    return parameters


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize(
    ("clip_factor", "eps"), [(0.01, 1e-3), (0.1, 1e-2), (1e-4, 1e-3), (10.0, 1e-3)]
)
def test_adaptive_is_timms_formula(
    backend: Any, dtype: torch.dtype, clip_factor: float, eps: float
) -> None:
    parameters = agc_parameters(backend, dtype)
    expected = [
        None if p.grad is None else timm_adaptive_clip_grad(p, p.grad, clip_factor, eps)
        for p in parameters
    ]
    before = [p.detach().clone() for p in parameters]
    result = gradkern.adaptive_clip_grad_(parameters, clip_factor=clip_factor, eps=eps)
    assert result is None
    for parameter, want in zip(parameters, expected, strict=True):
        if want is None:
            assert parameter.grad is None
            continue
        assert ulp_distance(parameter.grad, want) <= SCALING_ULPS[real_dtype(dtype)]
        assert parameter.grad._version > 0
    assert all(same_bits(p.detach(), b) for p, b in zip(parameters, before, strict=True))


@pytest.mark.parametrize("order", [0.5, 1, 1.0, 3, INF])
def test_adaptive_orders(backend: Any, order: float) -> None:
    parameters = [p for p in agc_parameters(backend, torch.float32) if p.numel()]
    expected = [
        None if p.grad is None else timm_adaptive_clip_grad(p, p.grad, 0.02, 1e-3, order)
        for p in parameters
    ]
    gradkern.adaptive_clip_grad_(parameters, 0.02, 1e-3, order)
    for parameter, want in zip(parameters, expected, strict=True):
        if want is not None:
            assert ulp_distance(parameter.grad, want) <= SCALING_ULPS[torch.float32]


def test_adaptive_defaults_and_single_tensor_and_generator(backend: Any) -> None:
    for wrap in (lambda p: p, lambda p: [p], lambda p: (q for q in [p])):
        parameter = normal(backend, 6, 5).requires_grad_()
        parameter.grad = normal(backend, 6, 5, seed=1)
        expected = timm_adaptive_clip_grad(parameter, parameter.grad, 0.01, 1e-3)
        gradkern.adaptive_clip_grad_(wrap(parameter))
        assert ulp_distance(parameter.grad, expected) <= SCALING_ULPS[torch.float32]


def test_adaptive_clips_units_of_dimension_0_in_any_layout(backend: Any) -> None:
    shape = (4, 6, 5, 3)
    weight = normal(backend, *shape, seed=1)
    for name, make in {
        "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
        "transposed memory": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
        "reversed memory": lambda t: t.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        "gaps": lambda t: torch.stack([t, t], -1)[..., 0],
        "unaligned": lambda t: torch.cat([t.new_zeros(1), t.reshape(-1)])[1:].view(shape),
    }.items():
        for weight_make in (lambda t: t.clone(), make):
            parameter = weight_make(weight).requires_grad_()
            gradient = make(normal(backend, *shape) * 0.02)
            parameter.grad = gradient
            assert parameter.grad.stride() == gradient.stride()
            expected = timm_adaptive_clip_grad(parameter, gradient, 0.01, 1e-3)
            gradkern.adaptive_clip_grad_([parameter])
            assert ulp_distance(gradient, expected) <= SCALING_ULPS[torch.float32], name


def test_adaptive_many_parameters_and_units(backend: Any) -> None:
    count = 3000 if backend.name != "simt" else 300
    weights, gradients = normal(backend, 4 * count, 2), normal(backend, 4 * count, 2, seed=1) * 0.02
    expected = timm_adaptive_clip_grad(weights, gradients, 0.01, 1e-3)
    parameters = []
    for i in range(count):
        parameters.append(weights[4 * i : 4 * i + 4].requires_grad_())
        parameters[-1].grad = gradients[4 * i : 4 * i + 4]
    gradkern.adaptive_clip_grad_(parameters)
    assert ulp_distance(gradients, expected) <= SCALING_ULPS[torch.float32]


def test_adaptive_of_large_units(backend: Any) -> None:
    size = 50_001 if backend.name != "simt" else 4001
    parameter = normal(backend, 3, size).requires_grad_()
    parameter.grad = normal(backend, 3, size, seed=1) * torch.tensor(
        [[1.0], [1e-4], [0.1]], device=backend.device
    )
    expected = timm_adaptive_clip_grad(parameter, parameter.grad, 0.01, 1e-3)
    gradkern.adaptive_clip_grad_([parameter])
    assert ulp_distance(parameter.grad, expected) <= SCALING_ULPS[torch.float32]


def test_adaptive_keeps_one_units_nan_to_itself(backend: Any) -> None:
    parameter = normal(backend, 5, 8).requires_grad_()
    parameter.grad = normal(backend, 5, 8, seed=1)
    parameter.grad[2, 3] = NAN
    expected = timm_adaptive_clip_grad(parameter, parameter.grad, 0.01, 1e-3)
    gradkern.adaptive_clip_grad_([parameter])
    assert ulp_distance(parameter.grad, expected) <= SCALING_ULPS[torch.float32]
    assert parameter.grad[2].isnan().all()
    assert not parameter.grad[3].isnan().any()


def test_adaptive_of_no_gradients() -> None:
    gradkern.adaptive_clip_grad_([])
    gradkern.adaptive_clip_grad_([torch.nn.Parameter(torch.ones(3))])


# --- clip_grad_value_ ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", REAL_DTYPES, ids=str)
@pytest.mark.parametrize("bound", [0.5, 0.3, 0.0, -1.0, INF, NAN, 1e-42, 65504.0])
def test_clip_value_is_natives_bit_for_bit(backend: Any, dtype: torch.dtype, bound: float) -> None:
    gradients = [normal(backend, n, dtype=dtype, seed=n) for n in (1, 7, 64, 1000)]
    gradients.append(
        torch.tensor(
            [3.0, -0.5, NAN, INF, -INF, 0.0, -0.0, 1e-40], dtype=dtype, device=backend.device
        )
    )
    copies = [g.clone() for g in gradients]
    gradkern.clip_grad_value_(parameters_with(gradients), bound)
    torch.nn.utils.clip_grad_value_(parameters_with(copies), bound)
    for gradient, copy in zip(gradients, copies, strict=True):
        assert torch.equal(gradient.isnan(), copy.isnan())
        assert torch.equal(gradient.nan_to_num(nan=0.0), copy.nan_to_num(nan=0.0))
