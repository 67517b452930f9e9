"""tensor_stats, grad_norms and param_norms against float64 and integer references."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from exact_reference import (
    ALL_DTYPES,
    COMPLEX_DTYPES,
    REAL_DTYPES,
    components,
    exact_norm,
    exact_sum,
    magnitudes,
    norm_of_magnitudes,
    same_bits,
)
from torch import Tensor, nn

import gradkern

INF = math.inf
NAN = math.nan
STATISTICS = ("count", "sum", "sum_squares", "abs_max", "abs_min_nonzero", "zeros", "nans", "infs")
DERIVED = ("norm", "mean", "std", "rms", "zero_fraction")


def normal(backend: Any, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_complex:
        parts = torch.randn((*shape, 2), generator=generator, dtype=torch.float64)
        return torch.view_as_complex(parts).to(dtype).to(backend.device)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(backend.device)


def reference(tensor: Tensor) -> dict[str, float]:
    """The eight statistics and the five derived ones, exactly; a complex number is two values."""
    values = components(tensor)
    finite = values[np.isfinite(values)]
    nonzero = np.abs(finite[finite != 0])
    wide = finite.astype(np.longdouble)
    sum_, sum_squares = exact_sum(wide), exact_sum(wide * wide)
    count, kept = values.size, finite.size
    nans, infs = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    norm = NAN if nans else INF if infs else float(sum_squares) ** 0.5
    if kept >= 2:
        high, low = np.longdouble(float(sum_)), np.longdouble(float(sum_ - float(sum_)))
        centred = wide - (high + low) / kept
        std = math.sqrt(float(exact_sum(centred * centred)) / (kept - 1))
    else:
        std = NAN
    return {
        "count": count,
        "sum": float(sum_),
        "sum_squares": float(sum_squares),
        "abs_max": float(np.abs(finite).max(initial=0.0)),
        "abs_min_nonzero": float(nonzero.min(initial=INF)),
        "zeros": int((values == 0).sum()),
        "nans": nans,
        "infs": infs,
        "norm": norm,
        "mean": float(sum_) / kept if kept else NAN,
        "std": std,
        "rms": math.sqrt(float(sum_squares) / kept) if kept else NAN,
        "zero_fraction": int((values == 0).sum()) / count if count else NAN,
    }


def assert_statistics(stats: gradkern.TensorStats, tensors: list[Tensor]) -> None:
    """Counts and extremes exactly; sums to 1e-14 of the sum of magnitudes."""
    for i, tensor in enumerate(tensors):
        want = reference(tensor)
        finite = components(tensor)
        finite = np.abs(finite[np.isfinite(finite)])
        slack = {"sum": 1e-14 * finite.sum(), "sum_squares": 1e-14 * want["sum_squares"]}
        kept = max(finite.size, 1)
        slack["mean"] = slack["sum"] / kept
        slack["norm"] = 1e-14 * want["norm"] if math.isfinite(want["norm"]) else 0.0
        slack["rms"] = 1e-14 * want["rms"] if finite.size else 0.0
        slack["zero_fraction"] = 1e-15
        if finite.size >= 2:
            # The variance is a difference of two sums that are each right to 1e-14 of the squares.
            error = 3e-14 * want["sum_squares"] / (finite.size - 1)
            slack["std"] = min(error / max(want["std"], 1e-300), math.sqrt(error))
        for name in STATISTICS + DERIVED:
            got = getattr(stats, name)[i].item()
            right = want[name]
            if math.isnan(right) or math.isinf(right):
                assert got == right or (math.isnan(got) and math.isnan(right)), (
                    i,
                    name,
                    got,
                    right,
                )
            else:
                assert abs(got - right) <= slack.get(name, 0.0), (i, name, got, right)


# --- the numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_against_the_reference(backend: Any, dtype: torch.dtype) -> None:
    tensors = [
        normal(backend, n, dtype=dtype, seed=n) for n in (1, 2, 3, 8, 17, 65, 255, 1000, 4097)
    ]
    for tensor in tensors[3:]:
        tensor[1::3] = 0
        tensor[2] = -0.0
    assert_statistics(gradkern.tensor_stats(tensors), tensors)


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_several_chunks(backend: Any, dtype: torch.dtype) -> None:
    size = 40_003 if backend.name != "simt" else 9001
    tensors = [normal(backend, size, dtype=dtype), normal(backend, 7, dtype=dtype, seed=1)]
    tensors[0][: size // 3] = 0
    assert_statistics(gradkern.tensor_stats(tensors), tensors)


def test_columns_and_attributes_are_the_same(backend: Any) -> None:
    tensors = [normal(backend, 10), normal(backend, 20, dtype=torch.bfloat16, seed=1)]
    stats = gradkern.tensor_stats(tensors)
    assert stats.values.shape == (2, 8)
    assert stats.values.dtype == torch.float64
    assert stats.values.device == tensors[0].device
    for column, name in enumerate(STATISTICS):
        assert same_bits(getattr(stats, name), stats.values[:, column])
    for name in STATISTICS + DERIVED:
        attribute = getattr(stats, name)
        assert attribute.shape == (2,)
        assert attribute.dtype == torch.float64
        assert attribute.device == tensors[0].device


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("place", [0, 1, 64, 300, 1999])
def test_values_that_are_not_finite_are_counted_and_kept_out(
    backend: Any, dtype: torch.dtype, place: int
) -> None:
    tensors = []
    for value in (NAN, INF, -INF):
        tensor = normal(backend, 2000, dtype=dtype, seed=3)
        tensor[5] = 0
        tensor[place] = value
        tensors.append(tensor)
    both = tensors[0].clone()
    both[(place + 1) % 2000], both[(place + 700) % 2000] = INF, -INF
    tensors.append(both)
    assert_statistics(gradkern.tensor_stats(tensors), tensors)


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 5, 400])
def test_nothing_finite(backend: Any, dtype: torch.dtype, size: int) -> None:
    tensors = [torch.full((size,), v, dtype=dtype, device=backend.device) for v in (NAN, INF, -INF)]
    assert_statistics(gradkern.tensor_stats(tensors), tensors)


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_norm_is_finite_exactly_where_natives_is(backend: Any, dtype: torch.dtype) -> None:
    for values in ([1.0, 2.0], [NAN, 1.0], [INF, 1.0], [-INF, NAN], [0.0, -0.0], [INF, -INF]):
        tensor = torch.tensor(values, dtype=dtype, device=backend.device)
        native = torch.linalg.vector_norm(tensor).item()
        ours = gradkern.tensor_stats([tensor]).norm.item()
        assert math.isnan(ours) == math.isnan(native)
        assert math.isinf(ours) == math.isinf(native)


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_all_zeros(backend: Any, dtype: torch.dtype) -> None:
    for size in (1, 16, 333, 5000):
        zeros = torch.zeros(size, dtype=dtype, device=backend.device)
        zeros[::2] = -0.0
        assert_statistics(gradkern.tensor_stats([zeros]), [zeros])
        stats = gradkern.tensor_stats([zeros])
        assert stats.zero_fraction.item() == 1.0
        assert stats.abs_min_nonzero.item() == INF, "the least of none"


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_zero_elements(backend: Any, dtype: torch.dtype) -> None:
    tensors = [
        torch.empty(0, dtype=dtype, device=backend.device),
        normal(backend, 5, dtype=dtype),
        torch.empty(3, 0, 2, dtype=dtype, device=backend.device),
    ]
    assert_statistics(gradkern.tensor_stats(tensors), tensors)
    assert_statistics(gradkern.tensor_stats(tensors[:1]), tensors[:1])


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_zero_dim_and_one_element(backend: Any, dtype: torch.dtype) -> None:
    tensors = [
        torch.tensor(-2.5, dtype=dtype, device=backend.device),
        torch.tensor([3.0], dtype=dtype, device=backend.device),
        torch.tensor([[[0.0]]], dtype=dtype, device=backend.device),
    ]
    assert_statistics(gradkern.tensor_stats(tensors), tensors)


def test_std_of_one_value_is_nan_as_torchs(backend: Any) -> None:
    stats = gradkern.tensor_stats([torch.tensor([3.0], device=backend.device)])
    assert math.isnan(stats.std.item())
    assert stats.mean.item() == stats.norm.item() == stats.rms.item() == 3.0


def test_std_has_the_correction_one(backend: Any) -> None:
    tensor = torch.tensor([1.0, 2.0, 3.0, 4.0], device=backend.device)
    assert gradkern.tensor_stats([tensor]).std.item() == pytest.approx(math.sqrt(5 / 3), rel=1e-14)
    tensor = normal(backend, 500, dtype=torch.float64)
    ours = gradkern.tensor_stats([tensor]).std.item()
    assert ours == pytest.approx(tensor.std(correction=1).item(), rel=1e-13)


@pytest.mark.parametrize("value", [0.1, 1e4, -3e-20, 12345.678])
def test_std_of_a_constant_is_never_nan(backend: Any, value: float) -> None:
    """The difference of two rounded sums may be slightly negative; its root must not be taken."""
    for size in (2, 3, 7, 1000, 4001):
        tensor = torch.full((size,), value, device=backend.device)
        std = gradkern.tensor_stats([tensor]).std.item()
        assert 0 <= std <= 2e-7 * abs(value)


def test_std_where_the_mean_is_much_larger(backend: Any) -> None:
    tensor = normal(backend, 5000) * 0.01 + 100
    want = reference(tensor)["std"]
    assert gradkern.tensor_stats([tensor]).std.item() == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_extremes_of_float32(backend: Any, dtype: torch.dtype) -> None:
    info = torch.finfo(torch.float32 if dtype.is_complex else dtype)
    values = (info.smallest_normal * info.eps, 1e-40, 1e-26, 1e19, 1e30, info.max)
    tensors = [torch.full((700,), value, dtype=dtype, device=backend.device) for value in values]
    for tensor in tensors:
        tensor[::2] *= -1
    assert_statistics(gradkern.tensor_stats(tensors), tensors)


def test_subnormals_are_not_zeros(backend: Any) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        info = torch.finfo(dtype)
        least = info.smallest_normal * info.eps
        tensor = torch.full((37,), least, dtype=dtype, device=backend.device)
        stats = gradkern.tensor_stats([tensor])
        assert stats.zeros.item() == 0
        assert stats.abs_min_nonzero.item() == stats.abs_max.item() == least


def test_finite_float64_whose_squares_overflow_are_still_finite(backend: Any) -> None:
    """A sum of squares of infinity must not be taken for an infinite element."""
    tensor = normal(backend, 300, dtype=torch.float64) * 1e200
    stats = gradkern.tensor_stats([tensor])
    want = reference(tensor)
    for name in ("count", "abs_max", "abs_min_nonzero", "zeros", "nans", "infs"):
        assert getattr(stats, name).item() == want[name]
    assert stats.sum.item() == pytest.approx(math.fsum(components(tensor)), rel=1e-13)


@pytest.mark.parametrize("dtype", COMPLEX_DTYPES, ids=str)
def test_complex_numbers_are_pairs(backend: Any, dtype: torch.dtype) -> None:
    tensor = torch.tensor([3 + 4j, 0 - 2j, 0j], dtype=dtype, device=backend.device)
    stats = gradkern.tensor_stats([tensor])
    assert stats.count.item() == 6
    assert stats.sum.item() == 5
    assert stats.sum_squares.item() == 29
    assert stats.abs_max.item() == 4
    assert stats.abs_min_nonzero.item() == 2
    assert stats.zeros.item() == 3
    assert stats.norm.item() == pytest.approx(math.sqrt(29), rel=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_layouts(backend: Any, dtype: torch.dtype) -> None:
    base = normal(backend, 4, 6, 10, 3, dtype=dtype)
    base[0, 1] = 0
    tensors = [
        base.transpose(0, 2),
        base.contiguous(memory_format=torch.channels_last),
        base[:, :, ::2],
        base[:, 1:4],
        base[:, 3, 2, 1],
        base[1, 2, 3, 1],
        base[:, :1].expand(4, 5, 10, 3),
        torch.as_strided(base, (7, 9), (2, 3), 5),
        base.reshape(-1)[1:-2],
    ]
    assert_statistics(gradkern.tensor_stats(tensors), tensors)


def test_views_with_the_negative_and_the_conjugate_bit(backend: Any) -> None:
    base = normal(backend, 50, dtype=torch.complex64)
    tensors = [base.conj().imag, base.conj()]
    assert tensors[0].is_neg()
    assert tensors[1].is_conj()
    assert_statistics(gradkern.tensor_stats(tensors), tensors)


def test_mixed_dtypes_and_ten_thousand_tensors(backend: Any) -> None:
    count = 10_000 if backend.name != "simt" else 1500
    tensors = [
        torch.full((1 + i % 3,), float(i % 100), dtype=REAL_DTYPES[i % 4], device=backend.device)
        for i in range(count)
    ]
    stats = gradkern.tensor_stats(tensors)
    index = np.arange(count)
    value = torch.arange(100).double()
    assert stats.count.tolist() == (1 + index % 3).tolist()
    expected = value[torch.from_numpy(index % 100)]
    assert torch.equal(stats.abs_max.cpu(), expected)
    assert torch.equal(stats.sum.cpu(), expected * stats.count.cpu())
    assert torch.equal(stats.zeros.cpu(), torch.where(expected == 0, stats.count.cpu(), 0.0))


def test_tensors_are_only_read_and_nothing_is_recorded(backend: Any) -> None:
    tensor = normal(backend, 100).requires_grad_()
    before = tensor.detach().clone()
    stats = gradkern.tensor_stats([tensor])
    assert same_bits(tensor.detach(), before)
    assert tensor._version == 0
    assert not stats.values.requires_grad
    assert not stats.std.requires_grad


def test_statistics_stay_what_they_were(backend: Any) -> None:
    """A result must not live in memory that a later call reuses, nor follow the tensor."""
    tensor = torch.ones(10, device=backend.device)
    first = gradkern.tensor_stats([tensor])
    tensor.fill_(5.0)
    second = gradkern.tensor_stats([tensor])
    assert first.sum.item() == 10
    assert second.sum.item() == 50
    assert first.mean.item() == 1, "derived lazily, from the statistics of then"


# --- names and forms ----------------------------------------------------------------------------


def test_a_single_tensor_and_a_generator(backend: Any) -> None:
    tensor = normal(backend, 4, 5)
    assert gradkern.tensor_stats(tensor).values.shape == (1, 8)
    assert gradkern.tensor_stats(t for t in (tensor, tensor)).values.shape == (2, 8)
    assert gradkern.tensor_stats([]).values.shape == (0, 8)


def test_names(backend: Any) -> None:
    tensors = [normal(backend, 4), normal(backend, 5, seed=1)]
    stats = gradkern.tensor_stats(tensors, names=["weight", "bias"])
    assert list(stats.names) == ["weight", "bias"]
    assert list(gradkern.tensor_stats(tensors, names=(n for n in "ab")).names) == ["a", "b"]
    unnamed = gradkern.tensor_stats(tensors)
    assert unnamed.names is None
    assert list(unnamed.to_dict()) == ["0", "1"]


@pytest.mark.parametrize("names", [["one"], ["one", "two", "three"], []])
def test_wrong_number_of_names_raises(names: list[str]) -> None:
    with pytest.raises(ValueError, match="names"):
        gradkern.tensor_stats([torch.ones(2), torch.ones(3)], names=names)


def test_to_dict(backend: Any) -> None:
    tensors = [normal(backend, 4), normal(backend, 5, seed=1)]
    stats = gradkern.tensor_stats(tensors, names=["weight", "bias"])
    table = stats.to_dict()
    assert list(table) == ["weight", "bias"]
    for i, row in enumerate(table.values()):
        assert set(row) == set(STATISTICS + DERIVED)
        for name in STATISTICS + DERIVED:
            assert isinstance(row[name], (int, float))
            assert row[name] == getattr(stats, name)[i].item()


def test_table() -> None:
    from rich.console import Console
    from rich.table import Table

    tensors = [torch.ones(4), torch.tensor([NAN, 0.0, 2.0])]
    table = gradkern.tensor_stats(tensors, names=["layers.0.weight", "[head]"]).table()
    assert isinstance(table, Table)
    assert table.row_count == 2
    text = io.StringIO()
    Console(file=text, width=250).print(table)
    assert "layers.0.weight" in text.getvalue()
    assert "[head]" in text.getvalue(), "a name is text, not rich markup"


def test_repr_does_not_print_every_number() -> None:
    stats = gradkern.tensor_stats([torch.ones(2)] * 1000)
    assert len(repr(stats)) < 20_000


# --- norms by name ------------------------------------------------------------------------------


class Network(nn.Module):
    """Names in an order of their own, a shared weight, a buffer, and a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(3, 4)
        self.first = nn.Linear(4, 3, bias=False)
        self.tied = nn.Linear(3, 4, bias=False)
        self.tied.weight = self.second.weight
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("running", torch.ones(3))


@pytest.fixture
def network(backend: Any) -> Network:
    torch.manual_seed(0)
    module = Network().to(backend.device)
    x = torch.randn(5, 3, device=backend.device)
    (module.tied(module.first(module.second(x))) ** 2).sum().backward()
    return module


NAMES = ["unused", "second.weight", "second.bias", "first.weight"]


def test_names_are_named_parameters_in_their_order(network: Network) -> None:
    assert [name for name, _ in network.named_parameters()] == NAMES
    assert list(gradkern.param_norms(network).names) == NAMES
    assert list(gradkern.grad_norms(network).names) == NAMES[1:], "no gradient, no norm"


@pytest.mark.parametrize("order", [0, 0.5, 1, 2, 3.5, 7, INF, 2.0])
def test_norms_of_a_module(network: Network, order: float) -> None:
    with torch.no_grad():
        network.first.weight[0] = 0
    params = gradkern.param_norms(network, norm_type=order)
    grads = gradkern.grad_norms(network, norm_type=order)
    for name, parameter in network.named_parameters():
        right = norm_of_magnitudes(magnitudes(parameter), order)
        assert params[name].item() == pytest.approx(right, rel=1e-13)
        if parameter.grad is not None:
            right = norm_of_magnitudes(magnitudes(parameter.grad), order)
            assert grads[name].item() == pytest.approx(right, rel=1e-13)


def test_norm_table_is_a_mapping(network: Network) -> None:
    table = gradkern.param_norms(network)
    assert isinstance(table, Mapping)
    assert len(table) == 4
    assert list(table) == list(table.keys()) == NAMES
    assert isinstance(table.names, tuple)
    assert table.norms.shape == (4,)
    assert table.norms.dtype == torch.float64
    assert table.norms.device == network.unused.device
    for i, (name, norm) in enumerate(table.items()):
        assert norm.shape == ()
        assert norm.dtype == torch.float64
        assert same_bits(norm, table.norms[i])
        assert name in table
    assert "nowhere" not in table
    with pytest.raises(KeyError):
        table["nowhere"]
    assert not table.norms.requires_grad


def test_shared_parameter_appears_once(network: Network) -> None:
    assert "tied.weight" not in gradkern.param_norms(network)
    assert "tied.weight" not in gradkern.grad_norms(network)


def test_named_tensors_in_place_of_a_module(backend: Any) -> None:
    named = {"a": normal(backend, 3), "b": normal(backend, 4, 5, seed=1)}
    from_dict = gradkern.param_norms(named)
    from_pairs = gradkern.param_norms(named.items())
    from_generator = gradkern.param_norms((name, t) for name, t in named.items())
    assert from_dict.names == from_pairs.names == from_generator.names == ("a", "b")
    assert same_bits(from_dict.norms, from_pairs.norms)
    assert same_bits(from_dict.norms, from_generator.norms)
    assert from_dict["b"].item() == pytest.approx(exact_norm(named["b"]), rel=1e-14)


def test_named_parameters_in_place_of_a_module(network: Network) -> None:
    by_module = gradkern.grad_norms(network)
    by_name = gradkern.grad_norms(network.named_parameters())
    assert by_name.names == by_module.names
    assert same_bits(by_name.norms, by_module.norms)


def test_module_without_gradients_or_parameters() -> None:
    assert len(gradkern.grad_norms(nn.Linear(2, 2))) == 0
    assert len(gradkern.param_norms(nn.ReLU())) == 0
    assert len(gradkern.param_norms({})) == 0
    assert gradkern.grad_norms(nn.Linear(2, 2)).norms.shape == (0,)


def test_norms_of_mixed_dtypes_and_empty_tensors(backend: Any) -> None:
    named = {str(d): normal(backend, 9, dtype=d, seed=i) for i, d in enumerate(ALL_DTYPES)}
    named["empty"] = torch.empty(0, device=backend.device)
    for order in (0, 1, 2, 3.5):
        table = gradkern.param_norms(named, order)
        for name, tensor in named.items():
            right = norm_of_magnitudes(magnitudes(tensor), order)
            assert table[name].item() == pytest.approx(right, rel=1e-13, abs=0)


@pytest.mark.parametrize("order", [-1, -INF, -0.5, NAN, "-1", "nan"])
def test_other_orders_are_refused(order: Any, network: Network) -> None:
    for function in (gradkern.grad_norms, gradkern.param_norms):
        with pytest.raises(ValueError, match="norm_type"):
            function(network, norm_type=order)


@pytest.mark.parametrize("order", ["x", None, 1j, [2]])
def test_orders_that_are_no_numbers_are_refused(order: Any, network: Network) -> None:
    for function in (gradkern.grad_norms, gradkern.param_norms):
        with pytest.raises((TypeError, ValueError)):
            function(network, norm_type=order)
