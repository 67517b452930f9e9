"""Activations after a bias, and PReLU, as functions."""

from __future__ import annotations

import torch
from torch import Tensor

from gradkern import ops
from gradkern.activation_calls import call as activate
from gradkern.channelwise import CHANNELWISE, Channelwise
from gradkern.channelwise_autograd import activate_channelwise
from gradkern.tensor_lists import are_plain

__all__ = ["bias_gelu", "bias_silu", "prelu"]


def bias_gelu(input: Tensor, bias: Tensor, approximate: str = "none") -> Tensor:
    """``gelu(input + bias)``, in one pass; its gradients in one, the bias's summed in float64.

    Args:
        input: float32, float64, bfloat16 or float16, of at least one dimension, any layout.
        bias: one number for each index of the last dimension. Where its dtype is another one, both
            are promoted, as torch's sum would.
        approximate: "none" or "tanh", as for :func:`gelu`.

    Returns:
        A tensor like ``input``. Differentiable, also twice. The bits of the bias's gradient don't
        depend on the number of threads.

    Raises:
        RuntimeError: ``approximate`` is something else.
        TypeError: ``input`` or ``bias`` is not a tensor.
        ValueError: ``bias`` has another shape.

    Source:
        Hendrycks, Gimpel, 2016; fused as in Shoeybi et al., "Megatron-LM", 2019.

    Example:
        >>> gradkern.functional.bias_gelu(torch.tensor([[-1.0, 2.0]]), torch.tensor([0.0, -1.0]))
        tensor([[-0.1587,  0.8413]])
    """
    if approximate not in ("none", "tanh"):
        # Native's exception type and words, for gelu.
        raise RuntimeError("approximate argument must be either none or tanh.")
    name = "bias_gelu" if approximate == "none" else "bias_gelu_tanh"
    return _after_bias(CHANNELWISE[name], input, bias)


def bias_silu(input: Tensor, bias: Tensor) -> Tensor:
    """``silu(input + bias)``, in one pass; its gradients in one, the bias's summed in float64.

    Args:
        input, bias: as for :func:`bias_gelu`.

    Returns:
        As :func:`bias_gelu`.

    Raises:
        TypeError, ValueError: as for :func:`bias_gelu`.

    Source:
        Elfwing, Uchibe, Doya, 2017.

    Example:
        >>> gradkern.functional.bias_silu(torch.tensor([[-1.0, 2.0]]), torch.tensor([0.0, -1.0]))
        tensor([[-0.2689,  0.7311]])
    """
    return _after_bias(CHANNELWISE["bias_silu"], input, bias)


def _require_tensor(value: object, argument: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument} is a {type(value).__name__}; it must be a tensor")


def _after_bias(entry: Channelwise, input: Tensor, bias: Tensor) -> Tensor:
    _require_tensor(input, "input")
    _require_tensor(bias, "bias")
    if input.dim() == 0 or bias.shape != input.shape[-1:]:
        raise ValueError(
            f"bias has shape {tuple(bias.shape)}; it must have one dimension, the last one of "
            f"input, which has shape {tuple(input.shape)}"
        )
    if are_plain([input, bias]):
        if input.dtype != bias.dtype:
            dtype = torch.promote_types(input.dtype, bias.dtype)
            input, bias = input.to(dtype), bias.to(dtype)
        try:
            return activate_channelwise(entry, input, bias)
        except (RuntimeError, NotImplementedError) as error:
            if not ops.delegates(error):
                raise
    return activate(entry.activation, input + bias, ())


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """``input`` where it is positive, else ``weight * input``, with learned slopes.

    A drop-in for :func:`torch.nn.functional.prelu`; the gradient of the slopes is summed in
    float64, and its bits don't depend on the number of threads.

    Args:
        input: float32, float64, bfloat16 or float16, any shape and layout. Anything else is
            native's.
        weight: one slope for each index of dimension 1, or a single one; of ``input``'s dtype.

    Returns:
        A tensor like ``input``. Differentiable, also twice.

    Raises:
        TypeError: ``input`` or ``weight`` is not a tensor.
        RuntimeError: shapes or dtypes don't fit.

    Source:
        He, Zhang, Ren, Sun, "Delving deep into rectifiers", 2015.

    Example:
        >>> gradkern.functional.prelu(torch.tensor([[-1.0, -1.0]]), torch.tensor([0.25, 0.5]))
        tensor([[-0.2500, -0.5000]])
    """
    _require_tensor(input, "input")
    _require_tensor(weight, "weight")
    if not are_plain([input, weight]):
        return torch.prelu(input, weight)
    device = input.device.type
    if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        input, weight = _autocast(input, dtype), _autocast(weight, dtype)
    if input.dtype == weight.dtype and _slopes_fit(input, weight):
        try:
            return activate_channelwise(CHANNELWISE["prelu"], input, weight)
        except (RuntimeError, NotImplementedError) as error:
            if not ops.delegates(error):
                raise
    return torch.prelu(input, weight)  # or what it raises


def _autocast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """torch computes prelu in autocast's dtype, on the CPU too; float64 stays as it is."""
    eligible = tensor.is_floating_point() and tensor.dtype != torch.float64
    return tensor.to(dtype) if eligible else tensor


def _slopes_fit(input: Tensor, weight: Tensor) -> bool:
    if weight.dim() > 1:
        return False
    if weight.numel() == 1:
        return True
    return input.dim() > 1 and weight.numel() == input.shape[1]
