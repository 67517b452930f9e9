"""Clipping without an operator call: to the same bits, and only where nothing else would see it."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from exact_reference import REAL_DTYPES, same_bits
from side_by_side import parameter_with, parameters_with
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import gradkern
from gradkern import direct, ops

OPERATOR = "gradkern::clip_grad_norm_"
Parameters = list[torch.nn.Parameter]

pytestmark = pytest.mark.skipif(
    not hasattr(Tensor, "__dlpack_c_exchange_api__"),
    reason="this torch has no C exchange: every call is an operator call",
)


@pytest.fixture
def operator_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many gradients each call of the operator had."""
    calls: list[int] = []
    operator = ops.clip_grad_norm_

    def counted(grads: list[Tensor], max_norm: float, norm_type: float) -> Tensor:
        calls.append(len(grads))
        return operator(grads, max_norm, norm_type)

    monkeypatch.setattr(ops, "clip_grad_norm_", counted)
    return calls


def gradients(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Some, of sizes around the widths of vectors and chunks."""
    generator = torch.Generator().manual_seed(0)
    shapes: list[tuple[int, ...]] = [(), (1,), (17,), (3, 5, 7), (70_001,), (4, 0, 2)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def by_operator(grads: list[Tensor], max_norm: float, order: float) -> Tensor:
    total: Tensor = ops.clip_grad_norm_(grads, max_norm, order)
    return total


@pytest.mark.parametrize("order", [0, 0.5, 1, 2, 3])
@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e9, -1.0, math.nan])
@pytest.mark.parametrize("dtype", REAL_DTYPES)
def test_bits_are_the_operators(
    backend: Any, operator_calls: list[int], dtype: torch.dtype, max_norm: float, order: float
) -> None:
    ours = [grad.to(backend.device) for grad in gradients(dtype)]
    theirs = [grad.clone() for grad in ours]
    total = gradkern.clip_grad_norm_(parameters_with(ours), max_norm, order)
    expected_calls = [len(ours)] if backend.name == "cuda" else []
    assert operator_calls == expected_calls
    assert same_bits(total, by_operator(theirs, max_norm, order))
    assert all(same_bits(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("values", [(math.inf, 1.0), (math.nan, math.inf), (1e-30, 1e-26)])
def test_bits_at_the_extremes_are_the_operators(
    operator_calls: list[int], values: tuple[float, float]
) -> None:
    ours = [torch.tensor(values), torch.ones(3)]
    theirs = [grad.clone() for grad in ours]
    total = gradkern.clip_grad_norm_(parameters_with(ours), 1e-28)
    assert operator_calls == []
    assert same_bits(total, by_operator(theirs, 1e-28, 2.0))
    assert all(same_bits(a, b) for a, b in zip(ours, theirs, strict=True))


def test_mixed_dtypes_are_promoted_as_by_the_operator(operator_calls: list[int]) -> None:
    for first in REAL_DTYPES:
        for second in REAL_DTYPES:
            grads = [torch.ones(3, dtype=first), torch.ones(2, dtype=second)]
            total = gradkern.clip_grad_norm_(parameters_with(grads), 1e9)
            assert total.dtype == torch.promote_types(first, second)
    assert operator_calls == []


def test_total_beyond_float16_is_infinite_and_clips(operator_calls: list[int]) -> None:
    parameter = parameter_with(torch.full((4,), 60000.0, dtype=torch.float16))
    assert gradkern.clip_grad_norm_(parameter, 2.0).item() == math.inf
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [1.0] * 4
    assert operator_calls == []


def test_versions_are_bumped(operator_calls: list[int]) -> None:
    grads = gradients()
    before = [grad._version for grad in grads]
    gradkern.clip_grad_norm_(parameters_with(grads), 1e-3)
    assert [grad._version for grad in grads] == [version + 1 for version in before]
    assert operator_calls == []


def test_of_many_gradients_each_is_scaled_and_bumped_once(operator_calls: list[int]) -> None:
    # More than are looked at, and said to be written, in one go; every third has none.
    grads = [torch.full((2,), float(i + 1)) for i in range(301)]
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in grads]
    for i, (parameter, grad) in enumerate(zip(parameters, grads, strict=True)):
        parameter.grad = None if i % 3 == 0 else grad
    before = [grad._version for grad in grads]
    expected = math.sqrt(sum(2.0 * (i + 1) ** 2 for i in range(301) if i % 3 != 0))
    total = gradkern.clip_grad_norm_(parameters, expected / 4)
    assert total.item() == pytest.approx(expected, rel=1e-6)
    for i, grad in enumerate(grads):
        scale = 1.0 if i % 3 == 0 else 0.25
        assert grad[0].item() == pytest.approx(scale * (i + 1), rel=1e-5)
        assert grad._version == before[i] + (i % 3 != 0)
    assert operator_calls == []


def test_imported_inside_of_a_mode_it_takes_plain_gradients() -> None:
    program = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    import gradkern
from gradkern import direct
weight = torch.nn.Parameter(torch.zeros(2))
weight.grad = torch.tensor([3.0, 4.0])
print(direct.clip_grad_norm_([weight], 1.0, 2.0))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "tensor(5.)"


class WithAttribute:
    """Its gradient is in its own dictionary."""

    def __init__(self, grad: Tensor) -> None:
        self.grad = grad


class WithProperty:
    """Its gradient is computed by its type."""

    def __init__(self, grad: Tensor) -> None:
        self._grad = grad

    @property
    def grad(self) -> Tensor:
        return self._grad


class WithGetattribute:
    """Its attributes are all computed."""

    def __init__(self, grad: Tensor) -> None:
        self.held = grad

    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, "held" if name == "grad" else name)


def test_gradients_of_objects_of_many_types(operator_calls: list[int]) -> None:
    def tensor_with(grad: Tensor) -> Tensor:
        tensor = torch.zeros_like(grad).requires_grad_()
        tensor.grad = grad
        # What a getter in C finds goes before this.
        tensor.__dict__["grad"] = torch.full_like(grad, 1e9)
        return tensor

    makers: list[Callable[[Tensor], Any]] = [
        parameter_with,
        tensor_with,
        WithAttribute,
        WithProperty,
        WithGetattribute,
    ]
    grads = [torch.tensor([float(i)]) for i in range(100)]
    objects = [makers[(i + i // 7) % len(makers)](grad) for i, grad in enumerate(grads)]
    total = gradkern.clip_grad_norm_(objects, 1e9)
    assert total.item() == pytest.approx(math.sqrt(sum(i * i for i in range(100))), rel=1e-6)
    assert operator_calls == []


def test_parameters_without_gradients_are_skipped(operator_calls: list[int]) -> None:
    parameters = [*parameters_with([torch.tensor([3.0])]), torch.nn.Parameter(torch.ones(1))]
    assert gradkern.clip_grad_norm_(parameters, 1e9).item() == 3.0
    assert operator_calls == []


# --- what is left to the operator ---------------------------------------------------------------


def shared() -> list[Tensor]:
    base = torch.full((6,), 2.0)
    return [base[:4], base[2:]]


LEFT_TO_THE_OPERATOR: dict[str, Callable[[], list[Tensor]]] = {
    "gaps": lambda: [torch.ones(4, 6)[:, ::2]],
    "transposed": lambda: [torch.ones(4, 6).t()],
    "complex": lambda: [torch.ones(3, dtype=torch.complex64)],
    "shared memory": shared,
}


@pytest.mark.parametrize("kind", LEFT_TO_THE_OPERATOR)
def test_what_is_not_plain_is_left_to_the_operator(operator_calls: list[int], kind: str) -> None:
    grads = [torch.full((5,), 2.0), *LEFT_TO_THE_OPERATOR[kind]()]
    assert direct.clip_grad_norm_(parameters_with(grads), 1.0, 2.0) is None
    assert grads[0].tolist() == [2.0] * 5, "touched"
    gradkern.clip_grad_norm_(parameters_with(grads), 1.0)
    assert operator_calls == [len(grads)]


@pytest.mark.parametrize(
    "grad",
    [
        torch.ones(3).to_sparse(),
        torch.ones(3, device="meta"),
        torch._efficientzerotensor(3),
        torch.ones(3).expand(2, 3),
    ],
    ids=["sparse", "meta", "zeros without memory", "expanded"],
)
def test_what_has_no_memory_of_its_own_is_not_taken(grad: Tensor) -> None:
    plain = torch.nn.Parameter(torch.zeros(2))
    plain.grad = torch.full((2,), 2.0)
    other = torch.nn.Parameter(torch.zeros(grad.shape, device=grad.device))
    other.grad = grad
    assert direct.clip_grad_norm_([plain, other], 1.0, 2.0) is None
    assert plain.grad.tolist() == [2.0, 2.0], "touched"


def test_tensor_inside_a_function_transform_is_not_taken() -> None:
    """Its type is torch.Tensor, and it has no memory."""

    class Holder:
        def __init__(self, grad: Tensor) -> None:
            self.grad = grad

    taken = []

    def observe(x: Tensor) -> Tensor:
        assert type(x) is Tensor
        taken.append(direct.clip_grad_norm_([Holder(x)], 1.0, 2.0))
        return x.sum()

    torch.func.vmap(observe)(torch.ones(2, 3))
    torch.func.grad(observe)(torch.ones(3))
    assert taken == [None, None]


def test_an_interrupt_is_not_swallowed() -> None:
    class Interrupting:
        @property
        def grad(self) -> Tensor:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        direct.clip_grad_norm_([Interrupting()], 1.0, 2.0)


def test_a_list_that_shrinks_while_it_is_read() -> None:
    class Shrinking:
        @property
        def grad(self) -> Tensor:
            parameters.clear()
            return torch.tensor([3.0, 4.0])

    parameters: list[Any] = [Shrinking() for _ in range(1000)]
    total = direct.clip_grad_norm_(parameters, 1e9, 2.0)
    assert total is not None
    assert total.item() == 5.0


# --- what sees operators still sees this one ----------------------------------------------------


def two_parameters() -> Parameters:
    return parameters_with([torch.tensor([3.0]), torch.tensor([4.0])])


def test_dispatch_mode_sees_the_operator() -> None:
    class Recording(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    seen: list[str] = []
    with Recording():
        gradkern.clip_grad_norm_(two_parameters(), 1.0)
    assert "gradkern.clip_grad_norm_.default" in seen


def test_function_mode_sees_the_operator() -> None:
    class Recording(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    seen: list[str] = []
    with Recording():
        gradkern.clip_grad_norm_(two_parameters(), 1.0)
    assert "gradkern.clip_grad_norm_.default" in seen


def test_profiler_sees_the_operator() -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        gradkern.clip_grad_norm_(two_parameters(), 1.0)
    assert OPERATOR in {event.key for event in profile.key_averages()}


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*")
def test_trace_has_the_operator() -> None:
    def clip(grad: Tensor) -> Tensor:
        return gradkern.clip_grad_norm_(parameters_with([grad]), 1.0)

    traced = torch.jit.trace(clip, torch.tensor([3.0, 4.0]), check_trace=False)
    assert OPERATOR in str(traced.graph)


def test_inference_tensors_are_refused_outside_inference_mode(operator_calls: list[int]) -> None:
    with torch.inference_mode():
        grads = [torch.tensor([3.0, 4.0])]
    with pytest.raises(RuntimeError, match="inference"):
        gradkern.clip_grad_norm_(parameters_with(grads), 1.0)
    assert grads[0].tolist() == [3.0, 4.0]
    assert operator_calls == []


def test_threads_clip_at_the_same_time(operator_calls: list[int]) -> None:
    """The kernels run without Python's lock."""
    lists = [parameters_with(gradients()) for _ in range(4)]
    expected = gradkern.get_total_norm(gradients())
    totals: list[Tensor] = []

    def clip_many(parameters: Parameters) -> None:
        for _ in range(50):
            totals.append(gradkern.clip_grad_norm_(parameters, 1e9))

    threads = [threading.Thread(target=clip_many, args=(listed,)) for listed in lists]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(totals) == 200
    assert all(same_bits(total, expected) for total in totals)
    assert operator_calls == []
