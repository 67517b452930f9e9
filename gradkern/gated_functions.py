"""The gated activations of large models as functions."""

from __future__ import annotations

import torch
from torch import Tensor

from gradkern import ops
from gradkern.activation_calls import call as activate
from gradkern.gated import GATED, Gated
from gradkern.gated_autograd import open_gate, open_gate_of_halves
from gradkern.tensor_lists import are_plain

__all__ = ["geglu", "reglu", "swiglu"]


def swiglu(gate: Tensor, up: Tensor | None = None) -> Tensor:
    """``silu(gate) * up``, in one pass, and its gradients in one.

    Of one tensor, ``swiglu(x)``, the *first* half of the last dimension is the gate and the second
    half what it gates, as in ``gate, up = x.chunk(2, dim=-1)``: the order of a fused ``[W; V]``
    projection in the paper's notation, ``act(x W) * (x V)``, and of Llama's ``gate_proj, up_proj``.
    :func:`torch.nn.functional.glu` has it the other way round: there the second half is the gate.

    Args:
        gate: float32, float64, bfloat16 or float16, any shape and layout. Views such as ``chunk``
            gives are read as they lie, without a copy.
        up: a tensor of the same shape; or None: ``gate`` holds both.

    Returns:
        A tensor like ``gate``, or, without ``up``, like a half of it. Differentiable, also twice.

    Raises:
        TypeError: ``gate`` or ``up`` is not a tensor.
        ValueError: the shapes differ; or, without ``up``, the last dimension is odd.

    Source:
        Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202.

    Example:
        >>> gradkern.functional.swiglu(torch.tensor([1.0, -1.0]), torch.tensor([2.0, 3.0]))
        tensor([ 1.4621, -0.8068])
        >>> gradkern.functional.swiglu(torch.tensor([1.0, -1.0, 2.0, 3.0]))
        tensor([ 1.4621, -0.8068])
    """
    return _call(GATED["swiglu"], gate, up)


def geglu(gate: Tensor, up: Tensor | None = None, *, approximate: str = "none") -> Tensor:
    """``gelu(gate) * up``, in one pass, and its gradients in one.

    Args:
        gate, up: as for :func:`swiglu`; of one tensor the first half is the gate.
        approximate: "none" or "tanh", as for :func:`gelu`.

    Returns:
        As :func:`swiglu`.

    Raises:
        RuntimeError: ``approximate`` is something else.
        TypeError, ValueError: as for :func:`swiglu`.

    Source:
        Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202.

    Example:
        >>> gradkern.functional.geglu(torch.tensor([1.0, -1.0]), torch.tensor([2.0, 3.0]))
        tensor([ 1.6827, -0.4760])
    """
    if approximate not in ("none", "tanh"):
        # Native's exception type and words, for gelu.
        raise RuntimeError("approximate argument must be either none or tanh.")
    return _call(GATED["geglu" if approximate == "none" else "geglu_tanh"], gate, up)


def reglu(gate: Tensor, up: Tensor | None = None) -> Tensor:
    """``relu(gate) * up``, in one pass, and its gradients in one.

    Args:
        gate, up: as for :func:`swiglu`; of one tensor the first half is the gate.

    Returns:
        As :func:`swiglu`.

    Raises:
        TypeError, ValueError: as for :func:`swiglu`.

    Source:
        Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202.

    Example:
        >>> gradkern.functional.reglu(torch.tensor([1.0, -1.0]), torch.tensor([2.0, 3.0]))
        tensor([2., 0.])
    """
    return _call(GATED["reglu"], gate, up)


def _require_tensor(value: object, argument: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument} is a {type(value).__name__}; it must be a tensor")


def _call(gated: Gated, gate: Tensor, up: Tensor | None) -> Tensor:
    _require_tensor(gate, "gate")
    if up is None:
        return _call_of_halves(gated, gate)
    _require_tensor(up, "up")
    if gate.shape != up.shape:
        raise ValueError(
            f"up has shape {tuple(up.shape)}; it must have {tuple(gate.shape)} like gate"
        )
    if not are_plain([gate, up]):
        return activate(gated.activation, gate, ()) * up
    if gate.dtype != up.dtype:  # as torch's product would
        dtype = torch.promote_types(gate.dtype, up.dtype)
        gate, up = gate.to(dtype), up.to(dtype)
    try:
        return open_gate(gated, gate, up)
    except (RuntimeError, NotImplementedError) as error:
        if not ops.delegates(error):
            raise
    return activate(gated.activation, gate, ()) * up


def _call_of_halves(gated: Gated, input: Tensor) -> Tensor:
    if input.dim() == 0 or input.shape[-1] % 2 != 0:
        raise ValueError(
            f"gate has shape {tuple(input.shape)} and up is None; the last dimension must be even, "
            "to be split in halves"
        )
    if are_plain([input]):
        try:
            return open_gate_of_halves(gated, input)
        except (RuntimeError, NotImplementedError) as error:
            if not ops.delegates(error):
                raise
    gate, up = input.chunk(2, -1)
    return activate(gated.activation, gate, ()) * up
