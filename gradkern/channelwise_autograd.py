"""How the operators of activations with a parameter for each channel meet autograd.

The first derivatives are one operator, one pass over memory. Higher ones, functorch's
transformations and forward AD go through the operations that the activation is composed of.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gradkern.activation_autograd import is_transformed
from gradkern.channelwise import Channelwise


class _Eager(Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, entry: Channelwise) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.entry = entry
        output: Tensor = entry.value(input, weight)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            return *ctx.entry.compose_backward(grad, input, weight), None
        return *ctx.entry.backward(grad, input, weight), None


class _Traceable(Function):
    @staticmethod
    def forward(input: Tensor, weight: Tensor, entry: Channelwise) -> Tensor:
        output: Tensor = entry.value(input, weight)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, weight, ctx.entry = inputs
        ctx.save_for_backward(input, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        of_input, of_weight = ctx.entry.backward(grad, input, weight)
        return of_input, of_weight, None


def activate_channelwise(entry: Channelwise, input: Tensor, weight: Tensor) -> Tensor:
    """The value, differentiable in whatever way is asked for.

    Args:
        entry: the activation.
        input, weight: tensors that its operator accepts.

    Returns:
        A tensor like ``input``.

    Example:
        >>> from gradkern.channelwise import CHANNELWISE
        >>> slope = torch.tensor([0.25], requires_grad=True)
        >>> y = activate_channelwise(CHANNELWISE["prelu"], torch.tensor([-3.0, 1.0]), slope)
        >>> y.sum().backward()
        >>> slope.grad
        tensor([-3.])
    """
    result: Tensor
    if torch.compiler.is_compiling():
        result = _Traceable.apply(input, weight, entry)
    elif is_transformed():
        result = entry.compose(input, weight)
    elif (input.requires_grad or weight.requires_grad) and torch.is_grad_enabled():
        result = _Eager.apply(input, weight, entry)
    else:
        result = entry.value(input, weight)
    return result
