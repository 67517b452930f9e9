"""The CUDA kernels, each once: what sanitizer runs, SASS checks and documentation are made of.

A new kernel gets all of them by an entry in `KERNELS` and the function that the entry's `case`
names, in a C++ file in sanitized/. Its mutants are found in the sources. What a kernel promises
about its occupancy stands in the comment above its definition (`Occupancy: 4 blocks on an SM`).
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping


class DType(enum.IntEnum):
    """csrc/backend.h's."""

    FLOAT32 = 0
    FLOAT64 = 1
    BFLOAT16 = 2
    FLOAT16 = 3
    COMPLEX64 = 4  # of which the modulus is the element
    COMPLEX128 = 5


# As a kernel's source spells the type of an element.
CPP_TYPES = {
    DType.FLOAT32: "float",
    DType.FLOAT64: "double",
    DType.BFLOAT16: "__nv_bfloat16",
    DType.FLOAT16: "__half",
    DType.COMPLEX64: "Complex<float>",
    DType.COMPLEX128: "Complex<double>",
}
ELEMENT_BYTES = dict(zip(DType, (4, 8, 2, 2, 8, 16), strict=True))

REALS = (DType.FLOAT32, DType.FLOAT64, DType.BFLOAT16, DType.FLOAT16)
MODULI = (*REALS, DType.COMPLEX64, DType.COMPLEX128)


@dataclasses.dataclass(frozen=True)
class Workload:
    """A size with a name, for predictions."""

    name: str
    elements: int
    tensors: int = 1


ACTIVATIONS = Workload("64 million activations", 64 << 20)
SOFTMAX_ROWS = Workload("64 million entries", 64 << 20)
IMAGES = Workload("64 x 256 x 64 x 64 images", 64 << 20)
GPT2_GRADIENTS = Workload("GPT-2 small's gradients", 124_439_808, 148)


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """An instantiation of a `__global__` function, or a family of them.

    Args:
        name: for people.
        symbol: the demangled name without namespaces, with its template arguments; `*` stands for
            any: then the entry is for all that match.
        case: the function in sanitized/ that runs it with each of `dtypes`.
        dtypes: what it is instantiated for, or switches on.
        reads: how many tensors of elements it streams from memory.
        writes: how many it streams to memory.
        launches: how many it takes, for people.
        workload: what its time is predicted for.
        routines: by dtype, why its streaming loop may contain a float64 division or square root, or
            a call (`ptx.py`).
    """

    name: str
    symbol: str
    case: str
    launches: str
    dtypes: tuple[DType, ...] = REALS
    reads: int = 1
    writes: int = 0
    workload: Workload = GPT2_GRADIENTS
    routines: Mapping[DType, str] = dataclasses.field(default_factory=dict)


PER_THOUSAND = "1 for each 1016 tensors"

# ptxas makes about ten float64 operations of a root; beside the 8 bytes of a complex64 an A100 has
# time for twice as many.
_MODULUS = "a modulus is a square root, and float32 squares would over- and underflow"
_MODULI = {DType.COMPLEX64: _MODULUS, DType.COMPLEX128: _MODULUS}
_POWER = "the p-th power of any |x| is a call of pow; only orders 0, 1, 2 and infinity need none"

_OF_A_ROW = "once for each row: its sum's reciprocal, or logarithm"
_QUOTIENT = "in float64 a formula's own quotient (1 / (1 + exp(-x)), ...) is a float64 division"
_CHANNEL = "where channels are counted, the channel of an element is a quotient of 64-bit integers"


def _norms(order: str, formula: str, case: str, dtypes: tuple[DType, ...] = MODULI) -> Kernel:
    return Kernel(
        name=f"norms of order {order}",
        symbol=f"reduce_kernel<{formula}>",
        case=case,
        launches=PER_THOUSAND,
        dtypes=dtypes,
        routines={d: why for d, why in _MODULI.items() if d in dtypes},
    )


def _activation(name: str, number: int, case: str, reads: int = 1, writes: int = 1) -> Kernel:
    return Kernel(
        name=f"activations: {name}",
        symbol=f"activation_kernel<*, (ActivationPass){number}, *>",
        case=case,
        launches="1",
        reads=reads,
        writes=writes,
        workload=ACTIVATIONS,
        routines={DType.FLOAT64: _QUOTIENT},
    )


def _softmax(
    what: str, kernel: str, case: str, passes: int, routines: Mapping[DType, str] | None = None
) -> tuple[Kernel, Kernel]:
    """The forward pass, which reads an input that often, and the backward pass, which reads two."""
    forward = Kernel(
        name=f"softmax and its logarithm, {what}",
        symbol=f"{kernel}<*Softmax, *>",
        case=case,
        launches="1",
        reads=passes,
        writes=1,
        workload=SOFTMAX_ROWS,
        routines=routines or {},
    )
    backward = dataclasses.replace(
        forward,
        name=f"softmax's backward, {what}",
        symbol=f"{kernel}<*Backward, *>",
        case=f"{case}_backward",
        reads=2 * passes,
        routines={},
    )
    return forward, backward


def _batch_norm(
    what: str, kernel: str, launches: str, *, reads: int, writes: int, activates: bool = True
) -> Kernel:
    """A residual, and its gradient, are one more to read and to write."""
    return Kernel(
        name=f"batch normalisation: {what}",
        symbol=f"batch_norm_{kernel}_kernel<*>",
        case=f"batch_norm_{kernel}",
        launches=launches,
        reads=reads,
        writes=writes,
        workload=IMAGES,
        routines={DType.FLOAT64: _QUOTIENT} if activates else {},
    )


def _beside_activations(
    name: str,
    symbol: str,
    case: str,
    *,
    reads: int,
    writes: int = 1,
    routines: Mapping[DType, str] | None = None,
    launches: str = "1",
) -> Kernel:
    return Kernel(
        name=name,
        symbol=symbol,
        case=case,
        launches=launches,
        reads=reads,
        writes=writes,
        workload=ACTIVATIONS,
        routines={DType.FLOAT64: _QUOTIENT} if routines is None else routines,
    )


KERNELS = (
    _norms("2", "SumOfSquares", "norms_of_order_2", REALS),
    _norms("1", "SumOfMagnitudes", "norms_of_order_1"),
    _norms("0", "NonzeroCount", "norms_of_order_0"),
    _norms("infinity", "ExtremeMagnitude<true>", "largest_magnitudes"),
    _norms("-infinity", "ExtremeMagnitude<false>", "smallest_magnitudes"),
    dataclasses.replace(
        _norms("p, any other", "ScaledPowers", "norms_of_other_orders"),
        routines=dict.fromkeys(MODULI, _POWER),
    ),
    Kernel(
        name="statistics",
        symbol="reduce_kernel<Statistics>",
        case="statistics_of_tensors",
        launches=PER_THOUSAND,
    ),
    Kernel(
        name="clip",
        symbol="clip_kernel<InParameters>",
        case="clip_with_table_in_parameters",
        launches=PER_THOUSAND,
        writes=1,
    ),
    Kernel(
        name="clip, after a reduction",
        symbol="clip_kernel<InWorkspace>",
        case="clip_with_table_in_workspace",
        launches="1",
        writes=1,
    ),
    Kernel(
        name="clamp",
        symbol="clamp_kernel<InParameters>",
        case="clamp",
        launches=PER_THOUSAND,
        writes=1,
    ),
    _activation("value", 0, "activation_values"),
    _activation("derivative", 1, "activation_derivatives"),
    _activation("value and derivative", 2, "activations_with_derivatives", writes=2),
    _activation("backward", 3, "activation_backward", reads=2),
    _activation("backward of output", 4, "activation_backward_of_output", reads=2),
    _activation("second derivative", 5, "activation_second", reads=2),
    _activation("second derivative of output", 6, "activation_second_of_output", reads=2),
    Kernel(
        name="activations: value with statistics",
        symbol="activation_statistics_kernel<*>",
        case="activation_statistics",
        launches="1, and 2 memsets",
        writes=1,
        workload=ACTIVATIONS,
        routines=dict.fromkeys(REALS, _CHANNEL),
    ),
    _beside_activations(
        "gated activations: value",
        "gated_kernel<*, (GatedPass)0, *>",
        "gated_values",
        reads=2,
    ),
    _beside_activations(
        "gated activations: backward",
        "gated_kernel<*, (GatedPass)1, *>",
        "gated_backward",
        reads=3,
        writes=2,
    ),
    _beside_activations(
        "activations with a parameter for each channel: value",
        "channelwise_kernel<*>",
        "channelwise_values",
        reads=1,
    ),
    _beside_activations(
        "activations with a parameter for each channel: backward",
        "channelwise_backward_kernel<*>",
        "channelwise_backward",
        reads=2,
        launches="1, and 1 memset",
    ),
    _beside_activations(
        "RReLU: value",
        "rrelu_kernel<(RreluPass)0, *>",
        "rrelu_values",
        reads=1,
        routines={},
    ),
    _beside_activations(
        "RReLU: backward",
        "rrelu_kernel<(RreluPass)1, *>",
        "rrelu_backward",
        reads=2,
        routines={},
    ),
    *_softmax(
        *("held rows", "softmax_held_rows_kernel", "softmax_of_held_rows", 1),
        routines=dict.fromkeys(REALS, _OF_A_ROW),
    ),
    *_softmax("long rows", "softmax_long_rows_kernel", "softmax_of_long_rows", 2),
    *_softmax("columns", "softmax_columns_kernel", "softmax_of_columns", 2),
    _batch_norm("moments", "moments", "1, and 1 memset", reads=1, writes=0, activates=False),
    _batch_norm("normalised", "normalise", "1", reads=1, writes=1),
    _batch_norm("sums of gradients", "sums", "1, and 1 memset", reads=2, writes=0),
    _batch_norm("gradient of the input", "input_gradient", "1", reads=2, writes=1),
    _batch_norm("normalised and measured", "measured", "1, and 2 memsets", reads=1, writes=1),
    _batch_norm("forward, held channels", "held_forward", "1", reads=1, writes=1),
    _batch_norm(
        "forward, held channels, measured", "held_measured", "1, and 2 memsets", reads=1, writes=1
    ),
    _batch_norm("backward, held channels", "held_backward", "1", reads=2, writes=1),
)

# Cases of the device functions that kernels are built from; they take no dtype.
FUNCTION_CASES = ("block_merge_in_a_row", "block_broadcast_in_a_row")
