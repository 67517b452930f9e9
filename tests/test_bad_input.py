"""Whatever is passed: a Python exception that says what is wrong, and gradients as they were.

What native raises is compared with native in test_clip_semantics.py; here are the functions that
native does not have, and what every message must say: the argument, what it was, what it must be.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from exact_reference import ALL_DTYPES
from side_by_side import observe, parameter_with, parameters_with
from torch import Tensor, nn

import gradkern

INF = math.inf
NAN = math.nan
Call = Callable[[list[Any]], Any]

# Every function that writes to gradients, and every one that only reads tensors.
WRITERS: dict[str, Call] = {
    "clip_grad_norm_": lambda p: gradkern.clip_grad_norm_(p, 1.0),
    "clip_grad_norm_ order 1": lambda p: gradkern.clip_grad_norm_(p, 1.0, 1),
    "clip_grad_norm_ error_if_nonfinite": lambda p: gradkern.clip_grad_norm_(
        p, 1.0, error_if_nonfinite=True
    ),
    "clip_grads_with_norm_": lambda p: gradkern.clip_grads_with_norm_(p, 1.0, torch.tensor(9.0)),
    "clip_grad_value_": lambda p: gradkern.clip_grad_value_(p, 1.0),
    "clip_grad_norm_with_stats_": lambda p: gradkern.clip_grad_norm_with_stats_(p, 1.0),
    "clip_grad_norm_with_stats_ order 1": lambda p: gradkern.clip_grad_norm_with_stats_(p, 1.0, 1),
    "clip_grad_norm_per_tensor_": lambda p: gradkern.clip_grad_norm_per_tensor_(p, 1.0),
    "adaptive_clip_grad_": lambda p: gradkern.adaptive_clip_grad_(p),
}
READERS: dict[str, Call] = {
    "get_total_norm": lambda t: gradkern.get_total_norm(t),
    "tensor_stats": lambda t: gradkern.tensor_stats(t),
    "param_norms": lambda t: gradkern.param_norms([(str(i), x) for i, x in enumerate(t)]),
}
OWN_WRITERS = [
    "clip_grad_norm_with_stats_",
    "clip_grad_norm_with_stats_ order 1",
    "clip_grad_norm_per_tensor_",
    "adaptive_clip_grad_",
]


def kind(value: Any) -> str:
    return type(value).__name__


def says(error: BaseException, *words: str) -> bool:
    missing = [word for word in words if word not in str(error)]
    assert not missing, f"{missing} not in {str(error)!r}"
    return True


def raises_untouched(call: Call, gradients: list[Tensor], first: Any = None) -> Exception:
    """The exception of a call that must raise a Python error with a message and touch nothing."""
    argument = parameters_with(gradients) if first is None else first
    outcome = observe(lambda: call(argument), gradients)
    assert outcome.exception is not None, "accepted"
    assert isinstance(outcome.exception, (TypeError, ValueError, RuntimeError, AttributeError))
    assert str(outcome.exception).strip(), "an exception without a message"
    assert outcome.untouched(), "gradients were touched"
    assert not any(outcome.bumped())
    return outcome.exception


# --- wrong types --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("bad", [None, 3, 1.5, object(), nn.Linear(2, 2)], ids=kind)
def test_parameters_that_are_not_iterable(name: str, bad: Any) -> None:
    with pytest.raises(TypeError) as raised:
        WRITERS[name](bad)
    assert says(raised.value, "parameters", kind(bad), "must be")


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("bad", [None, 3, "weight", nn.Linear(2, 2), [torch.ones(2)]], ids=kind)
def test_a_parameter_that_is_no_tensor(name: str, bad: Any) -> None:
    gradient = torch.full((5,), 10.0)
    parameter = parameter_with(gradient)
    for index, listed in (
        (0, [bad]),
        (1, [parameter, bad]),
        (0, [bad, parameter]),
        (1, (p for p in (parameter, bad))),
    ):
        error = raises_untouched(WRITERS[name], [gradient], first=listed)
        assert says(error, f"parameters[{index}]", kind(bad), "must be")


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("bad", [None, 3, "weight", nn.Linear(2, 2), [torch.ones(2)]], ids=kind)
def test_a_tensor_that_is_none(name: str, bad: Any) -> None:
    for index, listed in ((0, [bad]), (1, [torch.ones(3), bad]), (0, [bad, torch.ones(3)])):
        error = raises_untouched(READERS[name], [], first=listed)
        assert says(error, f"tensors[{index}]", kind(bad), "must be")


@pytest.mark.parametrize(
    "function", [gradkern.tensor_stats, gradkern.param_norms, gradkern.grad_norms]
)
@pytest.mark.parametrize("bad", [None, 3, object()], ids=kind)
def test_statistics_of_what_is_not_iterable(function: Any, bad: Any) -> None:
    with pytest.raises(TypeError):
        function(bad)


@pytest.mark.parametrize(
    "bad", [[torch.ones(2)], [("a",)], [(1, torch.ones(2))], [("a", 3)], {"a": 3}]
)
def test_named_tensors_that_are_none(bad: Any) -> None:
    for function in (gradkern.param_norms, gradkern.grad_norms):
        with pytest.raises((TypeError, ValueError)):
            function(bad)


@pytest.mark.parametrize("name", ["clip_grad_norm_with_stats_", "clip_grad_norm_per_tensor_"])
@pytest.mark.parametrize("max_norm", ["x", None, 1j, [1.0], torch.ones(2)], ids=kind)
def test_max_norm_that_is_no_number(name: str, max_norm: Any) -> None:
    function = getattr(gradkern, name)
    raises_untouched(lambda p: function(p, max_norm), [torch.full((5,), 10.0)])


@pytest.mark.parametrize("name", ["clip_grad_norm_with_stats_", "clip_grad_norm_per_tensor_"])
@pytest.mark.parametrize("order", ["x", None, 1j, [1.0]], ids=kind)
def test_norm_type_that_is_no_number(name: str, order: Any) -> None:
    function = getattr(gradkern, name)
    raises_untouched(lambda p: function(p, 1.0, order), [torch.full((5,), 10.0)])


@pytest.mark.parametrize("argument", ["clip_factor", "eps", "norm_type"])
@pytest.mark.parametrize("bad", ["x", None, 1j, [1.0]], ids=kind)
def test_adaptive_arguments_that_are_no_numbers(argument: str, bad: Any) -> None:
    raises_untouched(
        lambda p: gradkern.adaptive_clip_grad_(p, **{argument: bad}), [torch.full((5,), 10.0)]
    )


# --- integer tensors ----------------------------------------------------------------------------

INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integer_gradients(name: str, dtype: torch.dtype) -> None:
    if name == "clip_grads_with_norm_":
        native = torch.nn.utils.clip_grads_with_norm_
        with pytest.raises(RuntimeError):
            native(parameters_with([torch.ones(4, dtype=dtype)]), 1.0, torch.tensor(9.0))
    integers = torch.ones(4, dtype=dtype)
    for gradients in (
        [integers],
        [torch.full((3,), 9.0), integers],
        [integers, torch.full((3,), 9.0)],
    ):
        error = raises_untouched(WRITERS[name], gradients)
        assert isinstance(error, (TypeError, RuntimeError))


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integer_tensors(name: str, dtype: torch.dtype) -> None:
    integers = torch.ones(4, dtype=dtype)
    for tensors in ([integers], [torch.ones(3), integers]):
        error = raises_untouched(READERS[name], [], first=tensors)
        assert isinstance(error, (TypeError, RuntimeError))
        assert not isinstance(error, NotImplementedError)


def error_of(call: Callable[[], Any]) -> Exception:
    outcome = observe(call, [])
    assert outcome.exception is not None, "accepted"
    return outcome.exception


def test_messages_name_the_argument_what_it_was_and_what_it_must_be() -> None:
    """For the errors that are ours alone; where native raises, its type is kept."""
    ints = torch.ones(3, dtype=torch.int32)
    expanded = torch.ones(1).expand(3)
    module = nn.Linear(2, 2)
    cases: list[tuple[Callable[[], Any], list[str]]] = [
        (lambda: gradkern.tensor_stats([torch.ones(2), ints]), ["tensors[1]", "int32", "must be"]),
        (lambda: gradkern.tensor_stats([torch.ones(2)], ["a", "b"]), ["names", "2", "1", "must"]),
        (lambda: gradkern.tensor_stats([torch.ones(2), 3]), ["tensors[1]", "int", "must be"]),
        (lambda: gradkern.tensor_stats(3), ["tensors", "int", "must be"]),
        (lambda: gradkern.param_norms(module, -1), ["norm_type", "-1", "must be"]),
        (lambda: gradkern.grad_norms(module, NAN), ["norm_type", "nan", "must be"]),
        (lambda: gradkern.param_norms(3), ["int", "must be"]),
        (
            lambda: gradkern.clip_grads_with_norm_(parameter_with(torch.ones(2)), 1.0, 5.0),
            ["total_norm", "float", "must be"],
        ),
        (
            lambda: gradkern.clip_grads_with_norm_(
                parameter_with(torch.ones(2)), 1.0, torch.ones(1)
            ),
            ["total_norm", "(1,)", "must be"],
        ),
        (
            lambda: gradkern.clip_grad_norm_per_tensor_(
                parameters_with([torch.ones(2), ints]), 1.0
            ),
            ["[1]", "int32", "must be"],
        ),
        (
            lambda: gradkern.adaptive_clip_grad_(parameters_with([torch.ones(2), ints])),
            ["[1]", "int32", "must be"],
        ),
        (
            lambda: gradkern.clip_grad_norm_with_stats_(parameters_with([expanded]), 1.0),
            ["[0]", "overlap", "must"],
        ),
    ]
    for call, words in cases:
        assert says(error_of(call), *words)


@pytest.mark.parametrize("name", WRITERS)
def test_messages_show_no_internals(name: str) -> None:
    """No source path of ours and no C++ backtrace in what a user reads."""
    for gradient in (torch.ones(3, dtype=torch.int32), torch.ones(1).expand(3)):
        message = str(error_of(lambda g=gradient: WRITERS[name]([parameter_with(g)])))
        for internal in (".cpp", "csrc", "Exception raised from", "frame #", "gradkern delegates"):
            assert internal not in message


# --- overlapping memory -------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_expanded_gradients(name: str, dtype: torch.dtype) -> None:
    if name == "clip_grad_value_" and dtype.is_complex:
        dtype = torch.float32
    for expanded in (
        torch.full((1,), 30.0, dtype=dtype).expand(4),
        torch.full((3, 1), 30.0, dtype=dtype).expand(3, 5),
        torch.tensor(30.0, dtype=dtype).expand(2, 2),
    ):
        fine = torch.full((6,), 10.0, dtype=dtype)
        for gradients in ([expanded], [fine, expanded], [expanded, fine]):
            error = raises_untouched(WRITERS[name], gradients)
            assert isinstance(error, RuntimeError), "as native"


@pytest.mark.parametrize("name", WRITERS)
def test_gradients_that_overlap_themselves_without_a_stride_of_zero(name: str) -> None:
    """Native's own answer depends on the order in which it happens to write; ours is to refuse."""
    for size, stride in (((3, 3), (1, 1)), ((4, 5), (3, 1)), ((2, 3, 4), (4, 3, 1))):
        overlapping = torch.as_strided(torch.arange(40.0) + 5, size, stride)
        error = raises_untouched(WRITERS[name], [torch.full((3,), 9.0), overlapping])
        assert isinstance(error, (RuntimeError, ValueError))


@pytest.mark.parametrize("name", WRITERS)
def test_strides_that_look_like_an_overlap_and_are_none(name: str) -> None:
    storage = torch.arange(40.0) + 5
    for size, stride in (
        ((1, 5), (0, 1)),
        ((3, 1), (2, 0)),
        ((2, 3), (1, 2)),
        ((3, 2), (5, 4)),  # interleaved, and every element has its place
        ((0, 4), (0, 0)),
    ):
        gradient = torch.as_strided(storage.clone(), size, stride)
        WRITERS[name](parameters_with([gradient]))
        assert gradient._version > 0


@pytest.mark.parametrize("name", READERS)
def test_overlapping_tensors_may_be_read(name: str) -> None:
    READERS[name]([torch.ones(1).expand(4), torch.as_strided(torch.arange(9.0), (3, 3), (1, 1))])


# --- orders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [-1, -2.5, -INF, NAN])
def test_orders_outside_zero_positive_and_infinite(order: float) -> None:
    module = nn.Linear(2, 2)
    for function in (gradkern.grad_norms, gradkern.param_norms):
        with pytest.raises(ValueError, match="norm_type"):
            function(module, norm_type=order)
        with pytest.raises(ValueError, match="norm_type"):
            function({}, norm_type=order)


# --- devices without a kernel -------------------------------------------------------------------


@pytest.mark.parametrize("name", OWN_WRITERS)
def test_meta_gradients_of_functions_that_native_lacks(name: str) -> None:
    """Either a meta result or an exception that names the device: never a read of address 0."""
    gradient = torch.empty(5, device="meta")
    outcome = observe(lambda: WRITERS[name]([parameter_with(gradient)]), [gradient])
    if outcome.exception is not None:
        assert "meta" in str(outcome.exception)


@pytest.mark.parametrize("name", ["tensor_stats", "param_norms"])
def test_meta_tensors_of_functions_that_native_lacks(name: str) -> None:
    outcome = observe(lambda: READERS[name]([torch.empty(5, device="meta")]), [])
    if outcome.exception is not None:
        assert "meta" in str(outcome.exception)
    else:
        assert getattr(outcome.result, "values" if name == "tensor_stats" else "norms").is_meta


@pytest.mark.parametrize("name", [n for n in WRITERS if n != "clip_grad_value_"])
def test_devices_that_cannot_be_combined(name: str) -> None:
    if name == "clip_grads_with_norm_":
        pytest.skip("native scales the meta gradients too, each device by itself")
    fine, meta = torch.full((5,), 10.0), torch.empty(5, device="meta")
    for gradients in ([fine, meta], [meta, fine]):
        outcome = observe(lambda g=gradients: WRITERS[name](parameters_with(g)), [fine])
        assert outcome.exception is not None
        assert outcome.untouched()


def test_total_norm_on_meta_leaves_cpu_gradients_untouched() -> None:
    raises_untouched(
        lambda p: gradkern.clip_grads_with_norm_(p, 1.0, torch.tensor(5.0, device="meta")),
        [torch.full((5,), 10.0)],
    )


@pytest.mark.parametrize("name", OWN_WRITERS)
def test_sparse_gradients_of_functions_that_native_lacks(name: str) -> None:
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[0, 2]]), torch.tensor([3.0, 4.0]), (4,), check_invariants=True
    )
    fine = torch.full((5,), 10.0)
    for gradients in ([sparse], [fine, sparse], [sparse, fine]):
        raises_untouched(WRITERS[name], gradients)


@pytest.mark.parametrize("name", ["tensor_stats", "param_norms"])
def test_sparse_tensors_of_functions_that_native_lacks(name: str) -> None:
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[0, 2]]), torch.tensor([3.0, 4.0]), (4,), check_invariants=True
    )
    raises_untouched(READERS[name], [], first=[torch.ones(2), sparse])


@pytest.mark.parametrize("name", OWN_WRITERS)
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_float8_gradients_of_functions_that_native_lacks(name: str, dtype: torch.dtype) -> None:
    raises_untouched(WRITERS[name], [torch.full((5,), 10.0), torch.ones(4).to(dtype)])


@pytest.mark.filterwarnings("ignore::UserWarning")  # quantised tensors are being deprecated
def test_quantised_tensors() -> None:
    quantised = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
    for call in READERS.values():
        outcome = observe(lambda c=call: c([quantised]), [])
        assert outcome.exception is not None


# --- shapes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("order", [INF, -INF, -1])
@pytest.mark.parametrize("name", ["clip_grad_norm_with_stats_", "clip_grad_norm_per_tensor_"])
def test_order_without_identity_of_zero_elements(name: str, order: float, position: int) -> None:
    gradients = [torch.full((3,), 10.0), torch.full((3,), 10.0)]
    gradients[position] = torch.empty(0)
    function = getattr(gradkern, name)
    error = raises_untouched(lambda p: function(p, 1.0, order), gradients)
    assert isinstance(error, RuntimeError), "as native's clip_grad_norm_"
    assert "gradkern delegates" not in str(error)


def test_norms_of_order_infinity_of_zero_elements() -> None:
    with pytest.raises((RuntimeError, ValueError)):
        gradkern.param_norms({"a": torch.ones(2), "empty": torch.empty(0)}, INF)


# --- GRADKERN_CPU_ISA ---------------------------------------------------------------------------

ISAS = ["sse4.2", "avx2", "avx512", "neon"]


def run_with_isa(isa: str) -> subprocess.CompletedProcess[str]:
    program = "import gradkern; print(gradkern.build_info()['cpu_isa'])"
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "GRADKERN_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )


def test_instruction_set_that_the_cpu_lacks() -> None:
    lacking = [isa for isa in ISAS if isa not in gradkern.build_info()["cpu_isas"]]
    assert lacking, f"{platform.machine()} with the instruction sets of two architectures?"
    done = run_with_isa(lacking[-1])
    assert done.returncode == 1, "a Python exception, not a signal"
    last = done.stderr.strip().splitlines()[-1]
    assert "GRADKERN_CPU_ISA" in last
    assert lacking[-1] in last
    assert all(isa in last for isa in gradkern.build_info()["cpu_isas"])


@pytest.mark.parametrize("isa", ["AVX-2000"])
def test_instruction_set_that_does_not_exist(isa: str) -> None:
    done = run_with_isa(isa)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "GRADKERN_CPU_ISA" in last
    assert isa in last
