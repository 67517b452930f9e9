"""Gradient clipping and total norms: drop-ins for :mod:`torch.nn.utils`, and their variants.

Where they differ from native, on purpose:

1. The total norm is right at the extremes. Squares are summed in float64: gradients of 1e-26 have a
   norm, and so have gradients of 1e19.
2. It does not depend on the number of threads, and, to the precision of the result, not on the
   order or grouping of the gradients. Gradients in bfloat16 and float16 are summed in float64 from
   end to end; only the returned total is rounded. The clip coefficient comes from the unrounded
   total, and ``error_if_nonfinite`` judges that.
3. When there is nothing to clip, the gradients are read once and not written.

Sparse, quantised and meta tensors, tensor subclasses and devices without kernels of ours are handed
to native PyTorch, whose result they get.
"""

from __future__ import annotations

import math
import types
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from gradkern import direct, native, ops
from gradkern.stats import TensorStats, tensor_stats
from gradkern.tensor_lists import (
    TensorOrTensors,
    are_plain,
    as_list,
    require_kernels,
    require_tensors,
)

_T = TypeVar("_T")


def gradients_of(parameters: TensorOrTensors) -> list[Tensor]:
    """The gradients that parameters have, in their order, without those that are None.

    Args:
        parameters: a tensor or an iterable of tensors.

    Returns:
        The list of ``.grad`` tensors.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> gradients_of([weight])
        []
    """
    listed = as_list(parameters, "parameters")
    try:
        grads = [parameter.grad for parameter in listed]
    except AttributeError:
        for index, parameter in enumerate(listed):
            if not isinstance(parameter, Tensor):
                # Native's exception type, from the same attribute.
                raise AttributeError(
                    f"parameters[{index}] is a {type(parameter).__name__}; it must be a tensor"
                ) from None
        raise
    return [grad for grad in grads if grad is not None]


def _warn_if_empty_generator(parameters: TensorOrTensors, listed: Sequence[Tensor]) -> None:
    if isinstance(parameters, types.GeneratorType) and not listed:
        warnings.warn(
            "`parameters` is an empty generator, no gradient clipping will occur.", stacklevel=3
        )


def _are_on_one_device(tensors: Sequence[Tensor]) -> bool:
    first = tensors[0].device
    return all(tensor.device == first for tensor in tensors)


def _by_device_count(
    tensors: Sequence[Tensor], on_one: Callable[[], _T], on_several: Callable[[], _T]
) -> _T:
    """Runs `on_one`, or `on_several` where the tensors lie on several devices.

    The operator notices several devices, and refuses, before it touches anything; asking 2000
    tensors from Python takes as long as clipping them.
    """
    if torch.compiler.is_compiling():
        return on_one() if _are_on_one_device(tensors) else on_several()
    try:
        return on_one()
    except RuntimeError:
        if _are_on_one_device(tensors):
            raise
    return on_several()


def _by_device(tensors: Sequence[Tensor]) -> dict[torch.device, list[int]]:
    indices: dict[torch.device, list[int]] = {}
    for index, tensor in enumerate(tensors):
        indices.setdefault(tensor.device, []).append(index)
    return indices


def _ours_or_native(
    tensors: Sequence[Tensor], ours: Callable[[], _T], native_call: Callable[[], _T]
) -> _T:
    """Runs `ours`, or `native_call` where the tensors are native's to handle.

    Most of what is native's is found by the operator itself, which refuses before it touches
    anything: looking at 2000 tensors from Python would cost more than clipping them. A tracer can't
    recover from an operator's refusal, but does not mind the time.
    """
    if not are_plain(tensors):
        require_tensors(tensors, "tensors")
        return native_call()
    if torch.compiler.is_compiling():
        if any(t.layout != torch.strided or t.device.type not in ("cpu", "cuda") for t in tensors):
            return native_call()
        return ours()
    if tensors[0].is_meta:  # which our operators would accept
        return native_call()
    try:
        return ours()
    except (RuntimeError, NotImplementedError) as error:
        if not ops.delegates(error):
            raise
    return native_call()


def _total_norm(tensors: Sequence[Tensor], norm_type: float) -> Tensor:
    """The total norm in float64, by our operators; they refuse what they can't do."""

    def on_several() -> Tensor:
        norms = [
            ops.tensor_norms([tensors[i] for i in indices], norm_type).to(tensors[0].device)
            for indices in _by_device(tensors).values()
        ]
        total: Tensor = torch.linalg.vector_norm(torch.cat(norms), norm_type)
        return total

    def on_one() -> Tensor:
        total: Tensor = ops.total_norm(tensors, norm_type)
        return total

    return _by_device_count(tensors, on_one, on_several)


def unrounded_total_norm(tensors: Sequence[Tensor], norm_type: float) -> Tensor:
    """The total norm of tensors in float64, without a host synchronisation.

    Args:
        tensors: a non-empty sequence of tensors, of any mixture of floating or complex dtypes and
            of devices that gradkern has kernels for.
        norm_type: the order of the norm.

    Returns:
        A 0-dim float64 tensor on the first tensor's device. Tensors that native has to handle are
        measured by native, in the precision that native has.

    Example:
        >>> unrounded_total_norm([torch.full((2,), 1e-30), torch.zeros(3)], 2.0)
        tensor(1.4142e-30, dtype=torch.float64)
    """
    with torch.no_grad():
        return _ours_or_native(
            tensors,
            lambda: _total_norm(tensors, norm_type),
            lambda: native.get_total_norm(tensors, norm_type).double(),
        )


def _require_writable(grads: Sequence[Tensor]) -> None:
    """Native raises the same, after writing. Gradients are alike in this: one is looked at."""
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
        return
    if grads[0].is_inference():
        raise RuntimeError(
            "grads[0] is an inference tensor; outside of inference_mode it must be a normal one "
            "(a clone is) to be changed in place"
        )


def _require_not_float8(grads: Sequence[Tensor]) -> None:
    """Native raises the same, when it has changed the gradients of other dtypes."""
    for index, grad in enumerate(grads):
        if grad.is_floating_point() and grad.element_size() == 1:
            raise NotImplementedError(
                f"grads[{index}] has dtype {grad.dtype}, in which nothing can be multiplied; it "
                "must be of 16 bits or more"
            )


def _require_finite(total_norm: Tensor, norm_type: float) -> None:
    # The one place where the host waits for the device; the caller asked for it.
    if not torch.isfinite(total_norm):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from "
            "`parameters` is non-finite, so it cannot be clipped. To disable "
            "this error and scale the gradients by the non-finite norm anyway, "
            "set `error_if_nonfinite=False`"
        )


def get_total_norm(
    tensors: TensorOrTensors,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    r"""The norm of tensors, as if they were one vector.

    A drop-in for :func:`torch.nn.utils.get_total_norm`, right at the extremes (see the module's
    description).

    Args:
        tensors: a tensor or an iterable of tensors, of any floating or complex dtypes, shapes and
            devices.
        norm_type: the order of the norm: any number, or ``inf`` (``'inf'`` is accepted). Order 0
            counts the tensors that are not zero, as native does.
        error_if_nonfinite: raise if the norm is NaN or infinite. The only case that waits for a
            GPU.
        foreach: accepted for compatibility; there is one implementation.

    Returns:
        A 0-dim tensor on the first tensor's device, in the tensors' promoted (real) dtype.

    Raises:
        RuntimeError: the norm is non-finite and ``error_if_nonfinite`` is set; or a tensor is of an
            integer dtype; or the order has no value for an empty tensor.

    Example:
        >>> gradkern.get_total_norm([torch.tensor([3.0]), torch.tensor([4.0])])
        tensor(5.)
    """
    listed = as_list(tensors, "tensors")
    norm_type = float(norm_type)
    if not listed:
        return torch.tensor(0.0)

    def ours() -> Tensor:
        total = _total_norm(listed, norm_type)
        if error_if_nonfinite:
            _require_finite(total, norm_type)
        return total.to(ops.norm_dtype(listed))

    with torch.no_grad():
        return _ours_or_native(
            listed,
            ours,
            lambda: native.get_total_norm(listed, norm_type, error_if_nonfinite, foreach),
        )


def clip_grad_norm_(
    parameters: TensorOrTensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    r"""Scales gradients in place so that their total norm is at most ``max_norm``.

    A drop-in for :func:`torch.nn.utils.clip_grad_norm_`: every gradient is multiplied by
    :math:`\min(1, \text{max\_norm} / (\text{total\_norm} + 10^{-6}))`. When that is 1, the
    gradients are read once and never written; native reads them twice and writes them once.

    Args:
        parameters: a tensor or an iterable of tensors whose ``.grad`` is clipped; those without a
            gradient are skipped. Any mixture of floating and complex dtypes, shapes, layouts,
            devices.
        max_norm: the largest total norm; what ``float`` accepts.
        norm_type: the order of the norm, as for :func:`get_total_norm`.
        error_if_nonfinite: raise if the total norm is NaN or infinite, with the gradients
            untouched. The only case that waits for a GPU.
        foreach: accepted for compatibility; there is one implementation.

    Returns:
        The total norm before clipping: a 0-dim tensor on the first gradient's device, in the
        gradients' promoted (real) dtype.

    Raises:
        RuntimeError: the norm is non-finite and ``error_if_nonfinite`` is set; or a gradient is of
            an integer dtype or overlaps itself in memory; or the order has no value for an empty
            tensor.

    Source:
        Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", 2013.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> gradkern.clip_grad_norm_([weight], max_norm=1.0)
        tensor(5.)
        >>> weight.grad
        tensor([0.6000, 0.8000])
    """
    listed = as_list(parameters, "parameters")
    _warn_if_empty_generator(parameters, listed)
    max_norm, norm_type = float(max_norm), float(norm_type)
    if not error_if_nonfinite:
        clipped = direct.clip_grad_norm_(listed, max_norm, norm_type)
        if clipped is not None:
            return clipped
    grads = gradients_of(listed)
    if not grads:
        return torch.tensor(0.0)
    _require_writable(grads)

    def in_one_call() -> Tensor:
        total: Tensor = ops.clip_grad_norm_(grads, max_norm, norm_type)
        increment_version(grads)
        return total

    def in_two_steps() -> Tensor:
        total = _total_norm(grads, norm_type)
        if error_if_nonfinite:
            _require_finite(total, norm_type)
        _clip_with_total_norm_(grads, max_norm, total)
        return total.to(ops.norm_dtype(grads))

    def ours() -> Tensor:
        if error_if_nonfinite:
            return in_two_steps()
        return _by_device_count(grads, in_one_call, in_two_steps)

    def by_native() -> Tensor:
        total = native.get_total_norm(grads, norm_type, error_if_nonfinite, foreach)
        native.clip_grads_with_norm_(listed, max_norm, total, foreach)
        return total

    with torch.no_grad():
        return _ours_or_native(grads, ours, by_native)


def _device_groups(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    return [[tensors[i] for i in indices] for indices in _by_device(tensors).values()]


def _check_all(groups: Sequence[list[Tensor]]) -> None:
    """Has every group checked, by an operator that then writes nothing, before any is changed."""
    for group in groups:
        zero = torch.zeros((), dtype=torch.float64, device=group[0].device)
        ops.clip_with_total_norm_(group, zero, math.inf)  # a factor of 1


def _clip_with_total_norm_(grads: Sequence[Tensor], max_norm: float, total: Tensor) -> None:
    """Scales gradients, of any devices, by the factor that a total norm gives."""
    groups = _device_groups(grads)
    if len(groups) > 1:
        _check_all(groups)
    total = total.double()
    for group in groups:
        ops.clip_with_total_norm_(group, total.to(group[0].device), max_norm)
    increment_version(grads)


def clip_grads_with_norm_(
    parameters: TensorOrTensors,
    max_norm: float,
    total_norm: Tensor,
    foreach: bool | None = None,
) -> None:
    r"""Scales gradients in place by the factor that a given total norm gives.

    A drop-in for :func:`torch.nn.utils.clip_grads_with_norm_`.

    Args:
        parameters: a tensor or an iterable of tensors whose ``.grad`` is scaled.
        max_norm: the largest total norm; what ``float`` accepts.
        total_norm: a 0-dim tensor of any floating dtype and any device.
        foreach: accepted for compatibility; there is one implementation.

    Raises:
        TypeError: ``total_norm`` is not a tensor.
        RuntimeError: ``total_norm`` is not 0-dim; or a gradient can't be scaled, as for
            :func:`clip_grad_norm_`.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> gradkern.clip_grads_with_norm_([weight], 2.5, total_norm=torch.tensor(5.0))
        >>> weight.grad
        tensor([1.5000, 2.0000])
    """
    listed = as_list(parameters, "parameters")
    grads = gradients_of(listed)
    max_norm = float(max_norm)
    if not grads:
        return
    _require_writable(grads)
    if not isinstance(total_norm, Tensor):
        raise TypeError(
            f"total_norm is a {type(total_norm).__name__}; it must be a 0-dim tensor, "
            "as gradkern.get_total_norm returns it"
        )
    if total_norm.dim() != 0:
        raise RuntimeError(
            f"total_norm has shape {tuple(total_norm.shape)}; it must be 0-dim (one number)"
        )

    def by_native() -> None:
        _require_not_float8(grads)
        native.clip_grads_with_norm_(listed, max_norm, total_norm, foreach)

    with torch.no_grad():
        if total_norm.is_complex():
            return by_native()
        _ours_or_native(
            [*grads, total_norm],
            lambda: _clip_with_total_norm_(grads, max_norm, total_norm),
            by_native,
        )


def clip_grad_value_(
    parameters: TensorOrTensors, clip_value: float, foreach: bool | None = None
) -> None:
    r"""Clamps every element of the gradients in place to [-clip_value, clip_value]; NaN stays NaN.

    A drop-in for :func:`torch.nn.utils.clip_grad_value_`.

    Args:
        parameters: a tensor or an iterable of tensors whose ``.grad`` is clamped.
        clip_value: the largest magnitude; what ``float`` accepts.
        foreach: accepted for compatibility; there is one implementation.

    Raises:
        RuntimeError: there is no gradient at all, or one is of an integer dtype or overlaps itself
            in memory.
        NotImplementedError: a gradient is complex or sparse.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(3))
        >>> weight.grad = torch.tensor([-3.0, 0.5, 4.0])
        >>> gradkern.clip_grad_value_([weight], 1.0)
        >>> weight.grad
        tensor([-1.0000,  0.5000,  1.0000])
    """
    listed = as_list(parameters, "parameters")
    grads = gradients_of(listed)
    clip_value = float(clip_value)

    def by_native() -> None:
        _require_not_float8(grads)
        native.clip_grad_value_(listed, clip_value, foreach)

    if not grads:
        return by_native()
    _require_writable(grads)
    for index, grad in enumerate(grads):
        # Native raises the same, some of it when other gradients are clamped already.
        if grad.is_complex() or grad.layout != torch.strided:
            raise NotImplementedError(
                f"grads[{index}] is a {grad.dtype} tensor of layout {grad.layout}; to be clamped "
                "it must be real and strided"
            )

    def ours() -> None:
        groups = _device_groups(grads)
        if len(groups) > 1 or math.isnan(clip_value):
            _check_all(groups)
        if math.isnan(clip_value):
            return by_native()  # everything becomes NaN
        for group in groups:
            ops.clip_grad_value_(group, clip_value)
        increment_version(grads)

    with torch.no_grad():
        _ours_or_native(grads, ours, by_native)


def clip_grad_norm_with_stats_(
    parameters: TensorOrTensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> tuple[Tensor, TensorStats]:
    r"""Clips like :func:`clip_grad_norm_`, and measures every gradient before clipping.

    The pass over memory that the norm needs gives the statistics too (for orders 0, 2 and infinity;
    for any other order the gradients are read once more).

    Args:
        parameters: as for :func:`clip_grad_norm_`; all gradients must be on one device.
        max_norm, norm_type, error_if_nonfinite: as for :func:`clip_grad_norm_`.

    Returns:
        The total norm before clipping, as :func:`clip_grad_norm_` returns it, and the
        :class:`gradkern.TensorStats` of the gradients before clipping, without names. Without any
        gradient, 0 and no statistics.

    Raises:
        TypeError, NotImplementedError, RuntimeError: a gradient is of a kind that gradkern has no
            kernels for, or the norm is non-finite and ``error_if_nonfinite`` is set.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(3))
        >>> weight.grad = torch.tensor([3.0, 0.0, 4.0])
        >>> total, stats = gradkern.clip_grad_norm_with_stats_([weight], max_norm=1.0)
        >>> float(total), stats.zeros.tolist(), stats.abs_max.tolist()
        (5.0, [1.0], [4.0])
    """
    grads = _own_gradients(parameters)
    max_norm, norm_type = float(max_norm), float(norm_type)
    if not grads:
        return torch.tensor(0.0), tensor_stats([])
    _require_writable(grads)
    with torch.no_grad():
        if error_if_nonfinite:
            total = ops.call(ops.total_norm, grads, norm_type)
            _require_finite(total, norm_type)
        rounded, values = ops.call(ops.clip_grad_norm_with_stats_, grads, max_norm, norm_type)
        increment_version(grads)
    return rounded, TensorStats(values)


def clip_grad_norm_per_tensor_(
    parameters: TensorOrTensors, max_norm: float, norm_type: float = 2.0
) -> Tensor:
    r"""Clips every gradient to its own norm, in place: Keras' ``clipnorm``.

    Each gradient is multiplied by :math:`\text{max\_norm} / \max(\text{norm}, \text{max\_norm})`.

    Args:
        parameters: as for :func:`clip_grad_norm_`; all gradients must be on one device.
        max_norm: the largest norm of one gradient.
        norm_type: the order of the norm.

    Returns:
        The norms before clipping: float64, shape ``[n]`` for the n gradients, on their device.

    Raises:
        TypeError, NotImplementedError, RuntimeError: a gradient is of a kind that gradkern has no
            kernels for.

    Source:
        ``tf.clip_by_norm``, which Keras' optimizers apply to each variable for ``clipnorm``.

    Example:
        >>> weight, bias = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))
        >>> weight.grad, bias.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.5])
        >>> gradkern.clip_grad_norm_per_tensor_([weight, bias], max_norm=1.0)
        tensor([5.0000, 0.5000], dtype=torch.float64)
        >>> weight.grad, bias.grad
        (tensor([0.6000, 0.8000]), tensor([0.5000]))
    """
    grads = _own_gradients(parameters)
    max_norm, norm_type = float(max_norm), float(norm_type)
    if not grads:
        return torch.empty(0, dtype=torch.float64)
    _require_writable(grads)
    with torch.no_grad():
        norms: Tensor = ops.call(ops.clip_grad_norm_per_tensor_, grads, max_norm, norm_type)
        increment_version(grads)
    return norms


def adaptive_clip_grad_(
    parameters: TensorOrTensors,
    clip_factor: float = 0.01,
    eps: float = 1e-3,
    norm_type: float = 2.0,
) -> None:
    r"""Adaptive gradient clipping: each unit's gradient against the norm of its weights, in place.

    A unit is one index of a parameter's first dimension (a row of a linear layer, an output channel
    of a convolution), or the whole of a parameter with at most one dimension. Its gradient is
    scaled to the norm :math:`\text{clip\_factor} \cdot \max(\|w\|, \text{eps})` if it is larger.

    Args:
        parameters: a tensor or an iterable of tensors; those without a gradient are skipped.
            Gradients and parameters must be on one device.
        clip_factor: the largest ratio of a unit's gradient norm to its weight norm.
        eps: the least weight norm, so that freshly zeroed units can move.
        norm_type: the order of the norms.

    Raises:
        TypeError, NotImplementedError, RuntimeError: a tensor is of a kind that gradkern has no
            kernels for.

    Source:
        Brock, De, Smith, Simonyan, "High-Performance Large-Scale Image Recognition Without
        Normalization", 2021, equation 3; the same formula as timm's ``adaptive_clip_grad``.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
        >>> weight.grad = torch.tensor([[0.03, 0.04], [0.03, 0.04]])
        >>> gradkern.adaptive_clip_grad_([weight], clip_factor=0.05)
        >>> weight.grad
        tensor([[0.0300, 0.0400],
                [0.0150, 0.0200]])
    """
    listed = as_list(parameters, "parameters")
    grads = gradients_of(listed)
    if not grads:
        return
    _require_writable(grads)
    updated = [parameter for parameter in listed if parameter.grad is not None]
    names = [f"parameters[{i}]" for i, p in enumerate(listed) if p.grad is not None]
    require_kernels([*grads, *updated], [*(f"{name}.grad" for name in names), *names])
    with torch.no_grad():
        weights = [parameter.detach() for parameter in updated]
        limits = float(clip_factor), float(eps), float(norm_type)
        ops.call(ops.adaptive_clip_grad_, grads, weights, *limits)
        increment_version(grads)


def _own_gradients(parameters: TensorOrTensors) -> list[Tensor]:
    """The gradients, for a function that native does not have."""
    listed = as_list(parameters, "parameters")
    _warn_if_empty_generator(parameters, listed)
    grads = gradients_of(listed)
    require_kernels(
        grads, [f"parameters[{i}].grad" for i, p in enumerate(listed) if p.grad is not None]
    )
    return grads
