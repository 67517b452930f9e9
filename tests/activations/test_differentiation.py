"""Autograd and torch.func on the public functions: every way to differentiate that torch has."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from activation_reference import REFERENCES, expected, parameter_sets
from table_rows import ROWS, function, name, normal, saves, smooth_points
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from gradkern.activations import Activation

CASES = [
    pytest.param(row, parameters, keywords, id=f"{row.name}{parameters}{keywords.get('save', '')}")
    for row in ROWS
    for parameters in parameter_sets(row)
    for keywords in saves(row)
    # With other parameters it is enough to differentiate from one side.
    if parameters == row.defaults() or keywords == saves(row)[0]
]


def derivatives(row: Activation, x: Tensor, parameters: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Of first and second order, the first by its reference."""
    first = torch.from_numpy(expected(REFERENCES[row.name].derivative, x, parameters).high)
    return first, row.second(torch.ones_like(x), x, *parameters)


@pytest.mark.parametrize(("row", "parameters", "keywords"), CASES)
def test_gradcheck(row: Activation, parameters: tuple[float, ...], keywords: Any) -> None:
    def call(x: Tensor) -> Tensor:
        return function(row)(x, *parameters, **keywords)

    x = smooth_points(row, 6, parameters).view(2, 3).requires_grad_()
    assert gradcheck(
        call,
        (x,),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
        check_undefined_grad=True,
    )
    assert gradgradcheck(call, (x,))
    assert gradgradcheck(
        call, (x,), check_fwd_over_rev=True, check_rev_over_rev=False, check_undefined_grad=False
    )


@pytest.mark.parametrize(("row", "parameters", "keywords"), CASES)
def test_transformations(row: Activation, parameters: tuple[float, ...], keywords: Any) -> None:
    def call(x: Tensor) -> Tensor:
        return function(row)(x, *parameters, **keywords)

    def total(x: Tensor) -> Tensor:
        return call(x).sum()

    x = smooth_points(row, 12, parameters).view(4, 3)
    first, second = derivatives(row, x.reshape(-1), parameters)
    first, second = first.view(4, 3), second.view(4, 3)
    close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)
    func = torch.func
    close(func.grad(total)(x), first)
    close(func.jacrev(call)(x[0]), torch.diag(first[0]))
    close(func.jacfwd(call)(x[0]), torch.diag(first[0]))
    close(func.hessian(total)(x[0]), torch.diag(second[0]))
    close(func.jacrev(func.jacrev(total))(x[0]), torch.diag(second[0]))
    close(func.jacrev(func.jacfwd(total))(x[0]), torch.diag(second[0]))
    close(func.vmap(call)(x), call(x))
    close(func.vmap(call, in_dims=1, out_dims=1)(x), call(x))
    close(func.vmap(func.vmap(call, in_dims=1), in_dims=1)(x[None]), call(x[None]).permute(1, 2, 0))
    close(func.vmap(func.grad(total), in_dims=1, out_dims=1)(x), first)
    close(func.vmap(func.hessian(total))(x), torch.diag_embed(second))
    tangent = normal(4, 3, dtype=torch.float64, seed=5)
    close(func.jvp(call, (x,), (tangent,))[1], first * tangent)
    close(func.vjp(call, x)[1](tangent)[0], first * tangent)
    # A batch of gradients for one saved tensor, and the other way round.
    batched = func.vmap(lambda t: func.vjp(call, x)[1](t)[0])(torch.stack([tangent, tangent * 2]))
    close(batched, torch.stack([first * tangent, first * tangent * 2]))
    per_sample = func.vmap(lambda t: func.vjp(call, t)[1](tangent[0])[0])(x)
    close(per_sample, first * tangent[0])
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, tangent)
        close(forward_ad.unpack_dual(call(dual)).tangent, first * tangent)


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_gradcheck_in_place(row: Activation) -> None:
    x = smooth_points(row, 6).view(2, 3)

    def call(t: Tensor) -> Tensor:
        return function(row)(t * 1, inplace=True)

    leaf = x.clone().requires_grad_()
    assert gradcheck(call, (leaf,))
    assert gradgradcheck(call, (leaf,))
    if row.saves_output:
        assert gradcheck(partial(_in_place, row), (leaf,))


def _in_place(row: Activation, x: Tensor) -> Tensor:
    return function(row)(x * 1, inplace=True, save="input")


def right_or_refused(call: Callable[[], Tensor], want: Tensor) -> None:
    """A result that is right, or an error; never a wrong result."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            got = call()
    except (RuntimeError, NotImplementedError):
        return
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_in_place_under_transformations(row: Activation) -> None:
    x = smooth_points(row, 6).view(2, 3)
    first = derivatives(row, x.reshape(-1), row.defaults())[0].view(2, 3)
    tangent = normal(2, 3, dtype=torch.float64, seed=5)

    def call(t: Tensor) -> Tensor:
        return function(row)(t * 1, inplace=True)

    right_or_refused(lambda: torch.func.grad(lambda t: call(t).sum())(x), first)
    right_or_refused(lambda: torch.func.vmap(call)(x), function(row)(x))
    right_or_refused(lambda: torch.func.jvp(call, (x,), (tangent,))[1], first * tangent)

    def dual() -> Tensor:
        with forward_ad.dual_level():
            result = call(forward_ad.make_dual(x, tangent))
            found = forward_ad.unpack_dual(result).tangent
            return torch.zeros(()) if found is None else found.clone()

    right_or_refused(dual, first * tangent)


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_out_under_transformations(row: Activation) -> None:
    x = smooth_points(row, 6).view(2, 3)
    first = derivatives(row, x.reshape(-1), row.defaults())[0].view(2, 3)
    tangent = normal(2, 3, dtype=torch.float64, seed=5)

    def call(t: Tensor) -> Tensor:
        return function(row)(t, out=torch.empty_like(t))

    right_or_refused(lambda: torch.func.grad(lambda t: call(t).sum())(x), first)
    right_or_refused(lambda: torch.func.jvp(call, (x,), (tangent,))[1], first * tangent)


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_with_derivative_is_no_silent_constant(row: Activation) -> None:
    x = smooth_points(row, 6).view(2, 3)
    first = derivatives(row, x.reshape(-1), row.defaults())[0].view(2, 3)
    tangent = torch.ones_like(x)

    def call(t: Tensor) -> Tensor:
        return function(row, "_with_derivative")(t)[0]

    right_or_refused(lambda: torch.func.grad(lambda t: call(t).sum())(x), first)
    right_or_refused(lambda: torch.func.jvp(call, (x,), (tangent,))[1], first)


@pytest.mark.parametrize("keywords", [{"save": "output"}, {"save": "input"}, {}], ids=str)
def test_third_derivatives_raise(keywords: Any) -> None:
    for row in ROWS:
        if keywords and not row.saves_output:
            continue

        def call(x: Tensor, row: Activation = row) -> Tensor:
            return function(row)(x, **keywords).sum()

        x = smooth_points(row, 4).requires_grad_()
        (first,) = torch.autograd.grad(call(x), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
        with pytest.raises(RuntimeError):
            torch.autograd.grad(second.sum(), x)
        third = torch.func.grad(lambda t, c=call: torch.func.hessian(c)(t).sum())
        with pytest.raises(NotImplementedError, match=f"third derivative of {row.name}"):
            third(x.detach())


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_gradients_of_other_layouts(row: Activation) -> None:
    """An expanded one (of a sum) and a transposed one."""
    x = smooth_points(row, 12).view(4, 3).requires_grad_()
    first = derivatives(row, x.detach().reshape(-1), row.defaults())[0].view(4, 3)
    (got,) = torch.autograd.grad(function(row)(x).sum(), x)
    torch.testing.assert_close(got, first, rtol=1e-10, atol=1e-12)
    grad = normal(3, 4, dtype=torch.float64).t()
    (got,) = torch.autograd.grad(function(row)(x), x, grad)
    torch.testing.assert_close(got, first * grad, rtol=1e-10, atol=1e-12)
    (got,) = torch.autograd.grad(function(row)(x.t()).sum(), x)
    torch.testing.assert_close(got, first, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_statistics_do_not_change_the_gradient(row: Activation) -> None:
    x = smooth_points(row, 12).view(4, 3).requires_grad_()
    for keywords in saves(row):
        assert gradcheck(lambda t, k=keywords: function(row, "_with_stats")(t, **k)[0], (x,))
        assert gradgradcheck(lambda t, k=keywords: function(row, "_with_stats")(t, **k)[0], (x,))
    with pytest.raises(NotImplementedError, match="can't be transformed"):
        torch.func.grad(lambda t: function(row, "_with_stats")(t)[0].sum())(x)
