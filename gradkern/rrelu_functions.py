"""RReLU as a function."""

from __future__ import annotations

import torch
from torch import Tensor

from gradkern import ops
from gradkern.activation_autograd import is_transformed
from gradkern.activation_functions import leaky_relu
from gradkern.activations import as_number
from gradkern.rrelu import rectify, rectify_in_place
from gradkern.tensor_lists import PLAIN_TYPES

__all__ = ["rrelu"]


def rrelu(
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``input`` where it is positive, else a slope times it: a random one for each element.

    A drop-in for :func:`torch.nn.functional.rrelu`. The slopes follow from one seed, drawn from
    torch's generator of the device (so that :func:`torch.manual_seed` holds), and from each
    element's place (Philox4x32-10): they depend on no number of threads, and backward needs the
    input and the seed, not the slopes. They are not the numbers that native draws.

    Args:
        input: float32, float64, bfloat16 or float16, any shape and layout. Anything else is
            native's. Under functorch and forward AD torch's own operations compute it, with the
            numbers of :func:`torch.rand`.
        lower, upper: the bounds of the slopes, which are uniform between them.
        training: without it the slope is the mean of the bounds (:func:`leaky_relu`).
        inplace: write over ``input`` and return it.
        generator: draws the seed; by default the device's own.

    Returns:
        A tensor like ``input``. Differentiable, also twice.

    Raises:
        TypeError: ``input`` is not a tensor, or a bound not a number.
        RuntimeError: ``lower`` is above ``upper``; or ``inplace`` would write a leaf that requires
            grad.

    Source:
        Xu, Wang, Chen, Li, "Empirical evaluation of rectified activations in convolutional
        network", 2015; Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3",
        2011.

    Example:
        >>> gradkern.functional.rrelu(torch.tensor([-4.0, 4.0]), 0.25, 0.75)
        tensor([-2.,  4.])
        >>> y = gradkern.functional.rrelu(-torch.ones(1000), 0.25, 0.75, training=True)
        >>> bool(((y >= -0.75) & (y <= -0.25)).all()), len(y.unique()) > 900
        (True, True)
    """
    if not isinstance(input, Tensor):
        raise TypeError(f"input is a {type(input).__name__}; it must be a tensor")
    lower, upper = as_number(lower, "lower"), as_number(upper, "upper")
    if not lower <= upper:
        # Native's exception type and words.
        raise RuntimeError("Lower bound should be less than or equal to the upper bound")
    if not training:
        return leaky_relu(input, (lower + upper) / 2, inplace)
    if type(input) in PLAIN_TYPES:
        try:
            if not torch.compiler.is_compiling() and is_transformed():
                return _composed(input, lower, upper, inplace, generator)
            return _random(input, lower, upper, inplace, generator)
        except (RuntimeError, NotImplementedError) as error:
            if not ops.delegates(error):
                raise
    if generator is not None:
        raise NotImplementedError("generator is given, and only native can compute rrelu of this")
    native = torch.rrelu_ if inplace else torch.rrelu
    return native(input, lower, upper, True)


def _random(
    input: Tensor, lower: float, upper: float, inplace: bool, generator: torch.Generator | None
) -> Tensor:
    seed = torch.randint(
        -(2**63), 2**63 - 1, (), dtype=torch.int64, device=input.device, generator=generator
    )
    function = rectify_in_place if inplace else rectify
    return function(input, seed, lower, upper)


def _composed(
    input: Tensor, lower: float, upper: float, inplace: bool, generator: torch.Generator | None
) -> Tensor:
    """For functorch and forward AD, which know neither our operator nor all of native's."""
    uniform = torch.rand(input.shape, dtype=input.dtype, device=input.device, generator=generator)
    output = torch.where(input > 0, input, input * (lower + (upper - lower) * uniform))
    return input.copy_(output) if inplace else output
