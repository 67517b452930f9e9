"""The CPU kernels for NumPy arrays, without a copy and without a tensor in between.

Arrays are float32, float64, float16, or bfloat16 of the ``ml_dtypes`` package. C- or
Fortran-contiguous arrays are worked on where they are; any other layout goes through a contiguous
copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.lib.array_utils import byte_bounds, normalize_axis_index

from gradkern import _core
from gradkern.activations import Activation, as_number
from gradkern.activations import activation as _row
from gradkern.batch_norm import fused_activation

Array: TypeAlias = npt.NDArray[Any]

__all__ = [
    "activation",
    "activation_derivative",
    "activation_with_derivative",
    "batch_norm_backward",
    "batch_norm_forward",
    "bias_gelu",
    "bias_silu",
    "clip_by_global_norm",
    "clip_by_value",
    "geglu",
    "log_softmax",
    "prelu",
    "reglu",
    "rrelu",
    "softmax",
    "swiglu",
    "tensor_stats",
    "total_norm",
]


def _listed(arrays: Array | Iterable[Array], argument: str = "arrays") -> list[Array]:
    listed = [arrays] if isinstance(arrays, np.ndarray) else list(arrays)
    for index, array in enumerate(listed):
        if not isinstance(array, np.ndarray):
            raise TypeError(
                f"{argument}[{index}] is a {type(array).__name__}; it must be a numpy.ndarray"
            )
    return listed


def _is_contiguous(array: Array) -> bool:
    return array.flags.c_contiguous or array.flags.f_contiguous


def _readable(arrays: Sequence[Array]) -> list[Array]:
    return [a if _is_contiguous(a) else np.ascontiguousarray(a) for a in arrays]


def _require_changeable(arrays: Sequence[Array], argument: str) -> None:
    """Each array must be writeable, and own its memory: all are changed at once."""
    for index, array in enumerate(arrays):
        if not array.flags.writeable:
            raise ValueError(f"{argument}[{index}] is read-only; it is to be changed in place")
        steps = zip(array.strides, array.shape, strict=True)
        if array.size and any(step == 0 and size > 1 for step, size in steps):
            raise ValueError(
                f"{argument}[{index}] overlaps itself in memory (broadcast?); it is to be changed "
                "in place"
            )
    shared = _first_shared(arrays)
    if shared is not None:
        raise ValueError(
            f"{argument}[{shared[0]}] and {argument}[{shared[1]}] share memory; each must have its "
            "own, because all are changed at once"
        )


def _first_shared(arrays: Sequence[Array]) -> tuple[int, int] | None:
    """Two arrays with an element in common. Only overlapping extents are looked at closely."""
    extents = sorted((*byte_bounds(a), i) for i, a in enumerate(arrays) if a.size)
    open_extents: list[tuple[int, int]] = []
    for begin, end, index in extents:
        open_extents = [(e, i) for e, i in open_extents if e > begin]
        for _, other in open_extents:
            if _share(arrays[other], arrays[index]):
                return min(other, index), max(other, index)
        open_extents.append((end, index))
    return None


def _share(a: Array, b: Array) -> bool:
    try:
        return np.shares_memory(a, b, max_work=100_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def _targets(arrays: Sequence[Array], inplace: bool, out: Sequence[Array] | None) -> list[Array]:
    """The arrays that receive the result, filled with the input."""
    if out is None:
        if not inplace:
            return [a.copy(order="K") for a in arrays]
        _require_changeable(arrays, "arrays")
        return list(arrays)
    if inplace:
        raise ValueError("inplace is True and out is given; it must be one or the other")
    targets = _listed(out, "out")
    if [(t.shape, t.dtype) for t in targets] != [(a.shape, a.dtype) for a in arrays]:
        raise ValueError("out must have the shapes and dtypes of arrays")
    _require_changeable(targets, "out")
    for index, target in enumerate(targets):
        for other, array in enumerate(arrays):
            if other != index and np.may_share_memory(target, array) and _share(target, array):
                raise ValueError(
                    f"out[{index}] shares memory with arrays[{other}], which is still to be read; "
                    f"it may only share memory with arrays[{index}]"
                )
    for target, array in zip(targets, arrays, strict=True):
        np.copyto(target, array)
    return targets


def tensor_stats(arrays: Array | Iterable[Array]) -> dict[str, npt.NDArray[np.float64]]:
    """Measures arrays: eight statistics each, in one pass.

    Args:
        arrays: an array or an iterable of arrays of any shapes.

    Returns:
        A dictionary from the statistic's name (``count``, ``sum``, ``sum_squares``, ``abs_max``,
        ``abs_min_nonzero``, ``zeros``, ``nans``, ``infs``: see :class:`gradkern.TensorStats`) to a
        float64 array of shape ``[n]``.

    Raises:
        TypeError: something is not an array, or has a dtype without kernels.

    Example:
        >>> import gradkern.numpy
        >>> stats = gradkern.numpy.tensor_stats([np.array([3.0, 0.0, -4.0], np.float32)])
        >>> stats["sum_squares"].tolist(), stats["zeros"].tolist()
        ([25.0], [1.0])
    """
    values = _core.tensor_stats(_readable(_listed(arrays)))
    return {name: values[:, column] for column, name in enumerate(_core.statistics)}


def total_norm(arrays: Array | Iterable[Array], norm_type: float = 2.0) -> float:
    """The norm of arrays, as if they were one vector, in float64.

    Args:
        arrays: an array or an iterable of arrays of any shapes and dtypes.
        norm_type: the order of the norm, as for :func:`gradkern.get_total_norm`.

    Returns:
        The norm; 0 for no arrays.

    Raises:
        TypeError: something is not an array, or has a dtype without kernels.
        ValueError: an array is empty and the order has no value for it.

    Example:
        >>> import gradkern.numpy
        >>> gradkern.numpy.total_norm([np.float32([3e-30]), np.float32([4e-30])])
        5.0000000...e-30
    """
    listed = _listed(arrays)
    order = float(norm_type)
    if not listed:
        return 0.0
    if order < 0 or np.isinf(order):
        for index, array in enumerate(listed):
            if array.size == 0:
                raise ValueError(
                    f"arrays[{index}] is empty; the norm of order {order} needs an element"
                )
    return _core.total_norm(_readable(listed), order)


def clip_by_global_norm(
    arrays: Array | Iterable[Array],
    max_norm: float,
    norm_type: float = 2.0,
    *,
    inplace: bool = False,
    out: Sequence[Array] | None = None,
) -> tuple[list[Array], float]:
    """Scales arrays so that their total norm is at most ``max_norm``.

    Args:
        arrays: an array or an iterable of arrays of any shapes and dtypes.
        max_norm: the largest total norm.
        norm_type: the order of the norm.
        inplace: change the arrays themselves; nothing is written if there is nothing to clip.
        out: arrays of the same shapes and dtypes that receive the result instead.

    Returns:
        The scaled arrays (new ones, ``out``, or the arrays themselves) and the total norm before.

    Raises:
        TypeError: something is not an array, or has a dtype without kernels.
        ValueError: an array that is to be changed in place is read-only or shares memory with
            another.

    Example:
        >>> import gradkern.numpy
        >>> clipped, norm = gradkern.numpy.clip_by_global_norm([np.float32([3, 4])], 2.5)
        >>> clipped[0].round(4).tolist(), norm
        ([1.5, 2.0], 5.0)
    """
    listed = _listed(arrays)
    limit = float(max_norm)
    norm = total_norm(listed, norm_type)
    targets = _targets(listed, inplace, out)
    _change(targets, lambda dense: _core.clip_with_total_norm(dense, norm, limit))
    return targets, norm


def clip_by_value(
    arrays: Array | Iterable[Array],
    clip_value: float,
    *,
    inplace: bool = False,
    out: Sequence[Array] | None = None,
) -> list[Array]:
    """Clamps every element to [-clip_value, clip_value]; NaN stays NaN.

    Args:
        arrays: an array or an iterable of arrays of any shapes and dtypes.
        clip_value: the largest magnitude.
        inplace, out: as for :func:`clip_by_global_norm`.

    Returns:
        The clamped arrays.

    Raises:
        TypeError, ValueError: as for :func:`clip_by_global_norm`; or ``clip_value`` is NaN.

    Example:
        >>> import gradkern.numpy
        >>> gradkern.numpy.clip_by_value([np.float32([-3, 0.5, 4])], 1.0)[0].tolist()
        [-1.0, 0.5, 1.0]
    """
    bound = float(clip_value)
    if np.isnan(bound):
        raise ValueError("clip_value is nan; it must be a number")
    listed = _listed(arrays)
    targets = _targets(listed, inplace, out)
    _change(targets, lambda dense: _core.clip_by_value(dense, bound))
    return targets


def _change(targets: Sequence[Array], change: Any) -> None:
    """Changes arrays in place, those with gaps in memory through a contiguous copy."""
    dense = _readable(targets)
    if dense:
        change(dense)
    for target, worked_on in zip(targets, dense, strict=True):
        if worked_on is not target:
            np.copyto(target, worked_on)


# ---- activations -------------------------------------------------------------------------------


def _parameters(row: Activation, given: dict[str, float]) -> list[float]:
    unknown = given.keys() - dict(row.parameters).keys()
    if unknown:
        names = ", ".join(name for name, _ in row.parameters) or "none"
        raise TypeError(f"{row.name} has no parameter {sorted(unknown)[0]}; it has {names}")
    return [as_number(given.get(name, standard), name) for name, standard in row.parameters]


def _activated(
    name: str,
    activation_pass: _core.ActivationPass,
    x: Array,
    outputs: int,
    given: dict[str, float],
    out: Array | None = None,
) -> list[Array]:
    row = _row(name)
    parameters = _parameters(row, given)
    if not isinstance(x, np.ndarray):
        raise TypeError(f"x is a {type(x).__name__}; it must be a numpy.ndarray")
    if out is not None:
        if not isinstance(out, np.ndarray):
            raise TypeError(f"out is a {type(out).__name__}; it must be a numpy.ndarray")
        if out.shape != x.shape or out.dtype != x.dtype:
            raise ValueError(
                f"out has shape {out.shape} and dtype {out.dtype}; it must have {x.shape} and "
                f"{x.dtype} like x"
            )
        _require_changeable([out], "out")
    (dense,) = _readable([x])
    direct = (
        out is not None
        and _is_contiguous(out)
        and out.strides == dense.strides
        and (out.ctypes.data == dense.ctypes.data or not np.may_share_memory(out, dense))
    )
    results = [np.empty_like(dense) for _ in range(outputs)]
    if direct and out is not None:
        results[0] = out
    _core.activation(row.index, activation_pass, dense, results, parameters)
    if out is not None and not direct:
        np.copyto(out, results[0])
        results[0] = out
    return results


def activation(name: str, x: Array, out: Array | None = None, **parameters: float) -> Array:
    """The value of an activation.

    Args:
        name: one of ``gradkern.activations.TABLE``.
        x: an array of any shape.
        out: an array like ``x``, possibly ``x`` itself, that receives the result.
        parameters: the activation's own, by name (``alpha=...``).

    Returns:
        A new array like ``x``, or ``out``.

    Raises:
        TypeError: ``x`` or ``out`` is not an array, has a dtype without kernels, or there is no
            such parameter.
        ValueError: there is no such activation; or ``out`` is not like ``x``, or read-only.

    Example:
        >>> import gradkern.numpy
        >>> gradkern.numpy.activation("leaky_relu", np.float32([-1, 2]), negative_slope=0.5)
        array([-0.5,  2. ], dtype=float32)
    """
    return _activated(name, _core.ActivationPass.VALUE, x, 1, parameters, out)[0]


def activation_derivative(name: str, x: Array, **parameters: float) -> Array:
    """The derivative of an activation at ``x``.

    Args:
        name, x, parameters: as for :func:`activation`.

    Returns:
        A new array like ``x``.

    Raises:
        TypeError, ValueError: as for :func:`activation`.

    Example:
        >>> import gradkern.numpy
        >>> gradkern.numpy.activation_derivative("tanh", np.float64([0.0])).tolist()
        [1.0]
    """
    return _activated(name, _core.ActivationPass.DERIVATIVE, x, 1, parameters)[0]


def activation_with_derivative(name: str, x: Array, **parameters: float) -> tuple[Array, Array]:
    """The value and the derivative of an activation, in one pass.

    Args:
        name, x, parameters: as for :func:`activation`.

    Returns:
        Two new arrays like ``x``.

    Raises:
        TypeError, ValueError: as for :func:`activation`.

    Example:
        >>> import gradkern.numpy
        >>> y, dy = gradkern.numpy.activation_with_derivative("squared_relu", np.float32([3]))
        >>> y.tolist(), dy.tolist()
        ([9.0], [6.0])
    """
    y, dy = _activated(name, _core.ActivationPass.VALUE_AND_DERIVATIVE, x, 2, parameters)
    return y, dy


# ---- gated activations ---------------------------------------------------------------------------

_GATED = {name: index for index, (name, _) in enumerate(_core.gated_activations)}


def swiglu(gate: Array, up: Array | None = None) -> Array:
    """``silu(gate) * up``, in one pass: :func:`gradkern.functional.swiglu` for arrays.

    Args:
        gate: an array of any shape. The halves of a wider array's last axis are read as they lie,
            without a copy.
        up: an array like ``gate``; or None: the first half of ``gate``'s last axis is the gate, the
            second half what it gates.

    Returns:
        A new array like ``gate``, or, without ``up``, like a half of it.

    Raises:
        TypeError: ``gate`` or ``up`` is not an array, or has a dtype without kernels.
        ValueError: ``up`` is not like ``gate``; or, without ``up``, the last axis is odd.

    Source:
        Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202.

    Example:
        >>> import gradkern.numpy
        >>> gradkern.numpy.swiglu(np.float64([1, -1]), np.float64([2, 3])).round(4).tolist()
        [1.4621, -0.8068]
    """
    return _opened("swiglu", gate, up)


def geglu(gate: Array, up: Array | None = None, *, approximate: str = "none") -> Array:
    """``gelu(gate) * up``, in one pass: :func:`gradkern.functional.geglu` for arrays.

    Args:
        gate, up: as for :func:`swiglu`.
        approximate: "none" or "tanh", as for :func:`gradkern.functional.gelu`.

    Returns:
        As :func:`swiglu`.

    Raises:
        TypeError: as for :func:`swiglu`.
        ValueError: as for :func:`swiglu`; or ``approximate`` is something else.

    Source:
        Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202.

    Example:
        >>> import gradkern.numpy
        >>> gradkern.numpy.geglu(np.float64([1, -1]), np.float64([2, 3])).round(4).tolist()
        [1.6827, -0.476]
    """
    return _opened("geglu" + _approximation(approximate), gate, up)


def reglu(gate: Array, up: Array | None = None) -> Array:
    """``relu(gate) * up``, in one pass: :func:`gradkern.functional.reglu` for arrays.

    Args:
        gate, up: as for :func:`swiglu`.

    Returns:
        As :func:`swiglu`.

    Raises:
        TypeError, ValueError: as for :func:`swiglu`.

    Source:
        Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202.

    Example:
        >>> import gradkern.numpy
        >>> gradkern.numpy.reglu(np.float32([1, -1, 2, 3])).tolist()
        [2.0, 0.0]
    """
    return _opened("reglu", gate, up)


def _required_array(array: Array, argument: str) -> Array:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{argument} is a {type(array).__name__}; it must be a numpy.ndarray")
    return array


def _approximation(approximate: str) -> str:
    """What the name of a function of gelu ends in."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate is {approximate!r}; it must be one of none, tanh")
    return "" if approximate == "none" else "_tanh"


def _opened(name: str, gate: Array, up: Array | None) -> Array:
    _required_array(gate, "gate")
    if up is None:
        if gate.ndim == 0 or gate.shape[-1] % 2 != 0:
            raise ValueError(
                f"gate has shape {gate.shape} and up is None; the last axis must be even, to be "
                "split in halves"
            )
        gate, up = np.split(gate, 2, axis=-1)
    elif _required_array(up, "up").shape != gate.shape or up.dtype != gate.dtype:
        raise ValueError(
            f"up is {up.dtype} of shape {up.shape}; it must be {gate.dtype} of shape {gate.shape} "
            "like gate"
        )
    transposed = gate.flags.f_contiguous and not gate.flags.c_contiguous
    if transposed:
        gate, up = gate.T, up.T
    result = np.empty(gate.shape, gate.dtype)
    rows = _rows(gate)
    _core.gated(_GATED[name], rows, _rows(up), result.reshape(rows.shape))
    return result.T if transposed else result


def _rows(array: Array) -> Array:
    """Two-dimensional, elements of a row side by side; a copy where memory has no such rows."""
    columns = array.shape[-1] if array.size and array.ndim else 1
    rows = array.reshape(array.size // columns, columns)
    step, beside = rows.strides
    if beside == rows.itemsize and step % rows.itemsize == 0:
        return rows
    return np.ascontiguousarray(rows)


# ---- activations with a parameter for each channel -----------------------------------------------

_CHANNELWISE = {name: index for index, (name, _, _) in enumerate(_core.channelwise_activations)}


def bias_gelu(x: Array, bias: Array, approximate: str = "none") -> Array:
    """``gelu(x + bias)``, in one pass: :func:`gradkern.functional.bias_gelu` for arrays.

    Args:
        x: an array of at least one axis.
        bias: an array of one axis, as long as the last one of ``x``, of ``x``'s dtype.
        approximate: "none" or "tanh", as for :func:`gradkern.functional.gelu`.

    Returns:
        A new array like ``x``.

    Raises:
        TypeError: ``x`` or ``bias`` is not an array, or has a dtype without kernels.
        ValueError: ``bias`` has another shape or dtype, or ``approximate`` is something else.

    Source:
        Hendrycks, Gimpel, 2016; fused as in Shoeybi et al., "Megatron-LM", 2019.

    Example:
        >>> import gradkern.numpy
        >>> gradkern.numpy.bias_gelu(np.float64([[-1, 2]]), np.float64([0, -1])).round(4).tolist()
        [[-0.1587, 0.8413]]
    """
    return _after_bias("bias_gelu" + _approximation(approximate), x, bias)


def bias_silu(x: Array, bias: Array) -> Array:
    """``silu(x + bias)``, in one pass: :func:`gradkern.functional.bias_silu` for arrays.

    Args:
        x, bias: as for :func:`bias_gelu`.

    Returns:
        A new array like ``x``.

    Raises:
        TypeError, ValueError: as for :func:`bias_gelu`.

    Source:
        Elfwing, Uchibe, Doya, 2017.

    Example:
        >>> import gradkern.numpy
        >>> gradkern.numpy.bias_silu(np.float64([[-1, 2]]), np.float64([0, -1])).round(4).tolist()
        [[-0.2689, 0.7311]]
    """
    return _after_bias("bias_silu", x, bias)


def prelu(x: Array, weight: Array) -> Array:
    """:func:`gradkern.functional.prelu` for arrays: ``weight * x`` where ``x`` is not positive.

    Args:
        x: an array of any shape.
        weight: a single slope, or one for each index of axis 1, of ``x``'s dtype.

    Returns:
        A new array like ``x``.

    Raises:
        TypeError: ``x`` or ``weight`` is not an array, or has a dtype without kernels.
        ValueError: ``weight`` has another shape or dtype.

    Source:
        He, Zhang, Ren, Sun, "Delving deep into rectifiers", 2015.

    Example:
        >>> import gradkern.numpy
        >>> gradkern.numpy.prelu(np.float32([[-1, -1]]), np.float32([0.25, 0.5])).tolist()
        [[-0.25, -0.5]]
    """
    _required_array(x, "x")
    single = _required_array(weight, "weight").shape in ((), (1,))
    if not single and (x.ndim < 2 or weight.shape != x.shape[1:2]):
        raise ValueError(
            f"weight has shape {weight.shape}; it must have one element, or one axis as long as "
            f"axis 1 of x, which has shape {x.shape}"
        )
    return _of_channels("prelu", x, weight, "weight", None if single else 1)


def rrelu(
    x: Array,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    rng: np.random.Generator | None = None,
) -> Array:
    """:func:`gradkern.functional.rrelu` in training, for arrays: random slopes where ``x <= 0``.

    Args:
        x: an array of any shape.
        lower, upper: the bounds of the slopes, which are uniform between them.
        rng: draws the seed that all slopes follow from (Philox4x32-10 of it and of the element's
            place in memory); None: a fresh one.

    Returns:
        A new array like ``x``.

    Raises:
        TypeError: ``x`` is not an array, or has a dtype without kernels; a bound is not a number;
            ``rng`` is not a generator.
        ValueError: ``lower`` is above ``upper``.

    Source:
        Xu, Wang, Chen, Li, "Empirical evaluation of rectified activations in convolutional
        network", 2015.

    Example:
        >>> import gradkern.numpy
        >>> y = gradkern.numpy.rrelu(np.float64([-1, -1, 5]), 0.25, 0.5, np.random.default_rng(1))
        >>> bool(y[0] != y[1]), bool(((y[:2] <= -0.25) & (y[:2] >= -0.5)).all()), float(y[2])
        (True, True, 5.0)
    """
    _required_array(x, "x")
    lower, upper = as_number(lower, "lower"), as_number(upper, "upper")
    if not lower <= upper:
        raise ValueError(f"lower is {lower}; it must not be above upper, which is {upper}")
    if rng is None:
        rng = np.random.default_rng()
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng is a {type(rng).__name__}; it must be a numpy.random.Generator")
    (dense,) = _readable([x])
    result = np.empty_like(dense)
    _core.rrelu(dense, result, lower, upper, int(rng.integers(-(2**63), 2**63 - 1)))
    return result


def _after_bias(name: str, x: Array, bias: Array) -> Array:
    _required_array(x, "x")
    _required_array(bias, "bias")
    if x.ndim == 0 or bias.shape != x.shape[-1:]:
        raise ValueError(
            f"bias has shape {bias.shape}; it must have one axis, as long as the last one of x, "
            f"which has shape {x.shape}"
        )
    return _of_channels(name, x, bias, "bias", x.ndim - 1)


def _of_channels(name: str, x: Array, weight: Array, argument: str, axis: int | None) -> Array:
    """A parameter for each index of an axis, or one for all."""
    if weight.dtype != x.dtype:
        raise ValueError(f"{argument} has dtype {weight.dtype}; it must have {x.dtype} like x")
    (dense,) = _readable([x])
    result = np.empty_like(dense)
    channels, inner = (1, x.size) if axis is None else _channels(dense, axis)
    _core.channelwise(
        _CHANNELWISE[name], dense, np.ascontiguousarray(weight), result, channels, inner
    )
    return result


# ---- softmax -------------------------------------------------------------------------------------


def softmax(x: Array, axis: int = -1) -> Array:
    """Softmax along an axis: :func:`gradkern.functional.softmax` for arrays.

    Args:
        x: an array of any shape.
        axis: the axis along which the values sum to 1.

    Returns:
        A new array like ``x``.

    Raises:
        TypeError: ``x`` is not an array, or has a dtype without kernels.
        numpy.exceptions.AxisError: there is no such axis.

    Example:
        >>> import gradkern.numpy
        >>> gradkern.numpy.softmax(np.float32([[0, 0], [0, np.log(3)]])).round(4).tolist()
        [[0.5, 0.5], [0.25, 0.75]]
    """
    return _along(_core.SoftmaxPass.SOFTMAX, x, axis)


def log_softmax(x: Array, axis: int = -1) -> Array:
    """The logarithm of softmax along an axis: :func:`gradkern.functional.log_softmax` for arrays.

    Args:
        x, axis: as for :func:`softmax`.

    Returns:
        A new array like ``x``.

    Raises:
        TypeError, numpy.exceptions.AxisError: as for :func:`softmax`.

    Example:
        >>> import gradkern.numpy
        >>> gradkern.numpy.log_softmax(np.float64([1000, 0])).tolist()
        [0.0, -1000.0]
    """
    return _along(_core.SoftmaxPass.LOG_SOFTMAX, x, axis)


def _along(softmax_pass: _core.SoftmaxPass, x: Array, axis: int) -> Array:
    if not isinstance(x, np.ndarray):
        raise TypeError(f"x is a {type(x).__name__}; it must be a numpy.ndarray")
    axis = normalize_axis_index(axis, max(x.ndim, 1))
    (dense,) = _readable([x])
    result = np.empty_like(dense)
    size = dense.shape[axis] if dense.ndim else 1
    # The elements between two of a row: those of the axes behind it in memory.
    behind = dense.shape[axis + 1 :] if dense.flags.c_contiguous else dense.shape[:axis]
    _core.softmax(softmax_pass, dense, result, size, math.prod(behind))
    return result


# ---- batch normalisation -------------------------------------------------------------------------


def batch_norm_forward(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    residual: Array | None = None,
    activation: str = "identity",
    activation_parameter: float | None = None,
) -> tuple[Array, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Batch normalisation: :func:`gradkern.functional.batch_norm_forward` for arrays.

    Args:
        x: an array of shape ``[N, C, ...]``.
        weight, bias: arrays of shape ``[C]``, of any floating-point dtype with kernels.
        eps: is added to the variance.
        residual: an array like ``x`` that is added before the activation.
        activation, activation_parameter: as for :func:`gradkern.functional.batch_norm`.

    Returns:
        ``(y, mean, invstd)``: a new array like ``x``; mean and ``1 / sqrt(var + eps)``, float64.

    Raises:
        TypeError: an argument is not an array, or has a dtype without kernels.
        ValueError: a shape is wrong, there is one value per channel, or ``activation`` is unknown.

    Source:
        Ioffe, Szegedy, "Batch normalization", 2015.

    Example:
        >>> import gradkern.numpy
        >>> y, mean, invstd = gradkern.numpy.batch_norm_forward(np.float32([[1], [3]]))
        >>> y.round(3).tolist(), mean.tolist()
        ([[-1.0], [1.0]], [2.0])
    """
    fused = fused_activation(activation, activation_parameter)
    dense, residual = _elements_of_channels(x, residual, "residual")
    channels, inner = _channels(dense)
    if x.size == channels:
        raise ValueError(f"x has shape {x.shape}; it must have more than 1 value per channel")
    weight, bias = _per_channel(weight, "weight", channels), _per_channel(bias, "bias", channels)
    y = np.empty_like(dense)
    mean, invstd = np.zeros(channels), np.zeros(channels)
    if x.size > 0:
        _core.batch_norm_forward(
            dense,
            weight,
            bias,
            residual,
            channels,
            inner,
            eps,
            fused.index,
            fused.parameter,
            y,
            mean,
            invstd,
        )
    return y, mean, invstd


def batch_norm_backward(
    grad_output: Array,
    x: Array,
    weight: Array | None,
    mean: Array,
    invstd: Array,
    *,
    bias: Array | None = None,
    residual: Array | None = None,
    activation: str = "identity",
    activation_parameter: float | None = None,
) -> tuple[Array, ...]:
    """The gradients of :func:`batch_norm_forward`.

    Args:
        grad_output: the gradient of ``y``, like ``x``.
        x, weight, bias, residual, activation, activation_parameter: what forward had.
        mean, invstd: what forward gave.

    Returns:
        ``(dx, dweight, dbias)``: an array like ``x``, and two of shape ``[C]``, float64. With a
        residual its gradient comes fourth.

    Raises:
        TypeError, ValueError: as for :func:`batch_norm_forward`.

    Source:
        Ioffe, Szegedy, 2015, section 3.

    Example:
        >>> import gradkern.numpy
        >>> x = np.float32([[1], [3], [5]])
        >>> y, mean, invstd = gradkern.numpy.batch_norm_forward(x)
        >>> g = np.float32([[1], [0], [0]])
        >>> dx, dweight, dbias = gradkern.numpy.batch_norm_backward(g, x, None, mean, invstd)
        >>> [round(float(v), 3) for v in dx.ravel()], dbias.tolist()
        ([0.102, -0.204, 0.102], [1.0])
    """
    fused = fused_activation(activation, activation_parameter)
    dense, residual = _elements_of_channels(x, residual, "residual")
    _, gradient = _elements_of_channels(x, grad_output, "grad_output")
    assert gradient is not None
    channels, inner = _channels(dense)
    weight, bias = _per_channel(weight, "weight", channels), _per_channel(bias, "bias", channels)
    mean, invstd = (
        np.ascontiguousarray(_required_per_channel(array, name, channels), dtype=np.float64)
        for array, name in ((mean, "mean"), (invstd, "invstd"))
    )
    dx = np.empty_like(dense)
    dresidual = None if residual is None else np.empty_like(dense)
    dweight, dbias = np.zeros(channels), np.zeros(channels)
    if x.size > 0:
        _core.batch_norm_backward(
            gradient,
            dense,
            weight,
            bias,
            residual,
            channels,
            inner,
            fused.index,
            fused.parameter,
            mean,
            invstd,
            dx,
            dresidual,
            dweight,
            dbias,
        )
    return (dx, dweight, dbias) if dresidual is None else (dx, dweight, dbias, dresidual)


def _elements_of_channels(
    x: Array, other: Array | None, argument: str
) -> tuple[Array, Array | None]:
    """`x`, contiguous, and another array of its shape and dtype in its memory order."""
    if not isinstance(x, np.ndarray):
        raise TypeError(f"x is a {type(x).__name__}; it must be a numpy.ndarray")
    if x.ndim < 2:
        raise ValueError(
            f"x has {x.ndim} dimensions; it must have at least 2, of which the second is the "
            "channels'"
        )
    (dense,) = _readable([x])
    if other is None:
        return dense, None
    if not isinstance(other, np.ndarray):
        raise TypeError(f"{argument} is a {type(other).__name__}; it must be a numpy.ndarray")
    if other.shape != x.shape or other.dtype != x.dtype:
        raise ValueError(
            f"{argument} is {other.dtype} of shape {other.shape}; it must be {x.dtype} of shape "
            f"{x.shape} like x"
        )
    order: Any = "C" if dense.flags.c_contiguous else "F"
    return dense, np.asarray(other, order=order)


def _channels(dense: Array, axis: int = 1) -> tuple[int, int]:
    """How many channels an axis has, and how many elements lie between two in memory."""
    behind = dense.shape[axis + 1 :] if dense.flags.c_contiguous else dense.shape[:axis]
    return dense.shape[axis], max(math.prod(behind), 1)


def _required_per_channel(array: Array, argument: str, channels: int) -> Array:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{argument} is a {type(array).__name__}; it must be a numpy.ndarray")
    if array.shape != (channels,):
        raise ValueError(
            f"{argument} has shape {array.shape}; it must have ({channels},), the channels of x"
        )
    return array


def _per_channel(array: Array | None, argument: str, channels: int) -> Array | None:
    """In float64, which holds every parameter."""
    if array is None:
        return None
    return _required_per_channel(array, argument, channels).astype(np.float64)
