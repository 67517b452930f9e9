"""gradkern.numpy's batch normalisation gives the bits of the operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from batch_norm_reference import ACTIVATIONS, Problem

import gradkern.functional as G  # noqa: N812
import gradkern.numpy as gk


def array(tensor: torch.Tensor | None) -> Any:
    return None if tensor is None else tensor.numpy()


@pytest.mark.parametrize("order", ["C", "F", "slice"])
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_the_bits_of_the_operators(
    dtype: torch.dtype, activation: str, residual: bool, order: Any
) -> None:
    problem = Problem.make((4, 3, 5, 2), dtype, residual=residual)
    x, r, weight, bias = problem.tensors
    want = G.batch_norm_forward(problem.x, weight, bias, residual=r, activation=activation)
    gradients = G.batch_norm_backward(
        problem.grad, problem.x, weight, *want[1:], bias=bias, residual=r, activation=activation
    )

    def placed(tensor: torch.Tensor | None) -> Any:
        if tensor is None or order == "slice":
            return None if tensor is None else np.repeat(tensor.numpy(), 2, axis=0)[::2]
        return np.asarray(tensor.numpy(), order=order)

    got = gk.batch_norm_forward(
        placed(x), array(weight), array(bias), residual=placed(r), activation=activation
    )
    # Another memory order groups the sums otherwise.
    close = {"rtol": 1e-6 if dtype == torch.float32 else 1e-3 if dtype == torch.float16 else 1e-12}
    for mine, true in zip(got, want, strict=True):
        if order == "F":
            np.testing.assert_allclose(mine, true.numpy(), atol=close["rtol"], **close)
        else:
            assert np.array_equal(mine, true.numpy())
    back = gk.batch_norm_backward(
        placed(problem.grad),
        placed(x),
        array(weight),
        *got[1:],
        bias=array(bias),
        residual=placed(r),
        activation=activation,
    )
    for mine, true in zip(back, gradients, strict=True):
        if order == "F":
            np.testing.assert_allclose(mine, true.numpy(), atol=10 * close["rtol"], **close)
        else:
            assert np.array_equal(mine, true.numpy())


def test_bad_input() -> None:
    x = np.ones((4, 3), np.float32)
    with pytest.raises(TypeError, match="x is a list"):
        gk.batch_norm_forward([[1.0]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="x has 1 dimensions"):
        gk.batch_norm_forward(x[0])
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        gk.batch_norm_forward(x[:1])
    with pytest.raises(ValueError, match=r"weight has shape \(2,\); it must have \(3,\)"):
        gk.batch_norm_forward(x, np.ones(2))
    with pytest.raises(ValueError, match="residual is float64"):
        gk.batch_norm_forward(x, residual=x.astype(np.float64))
    with pytest.raises(TypeError, match="int64"):
        gk.batch_norm_forward(np.ones((4, 3), np.int64))
    with pytest.raises(ValueError, match="activation is 'swish'"):
        gk.batch_norm_forward(x, activation="swish")
