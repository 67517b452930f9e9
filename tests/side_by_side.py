"""Runs a function of torch.nn.utils and ours on identical copies, and records what they do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from exact_reference import ulp_distance
from torch import Tensor

import gradkern

# A total or a scaled element of native's, in units in the last place: it rounds every partial norm,
# the total and the coefficient to the gradients' dtype, where ours rounds once.
NATIVE_ULPS = {torch.float32: 4.0, torch.float64: 8.0, torch.bfloat16: 3.0, torch.float16: 3.0}


def copies_with_layout(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Copies with the same strides, offsets, gaps and overlaps, within and between tensors."""
    storages: dict[int, torch.UntypedStorage] = {}
    seen: dict[int, Tensor] = {}

    def copy(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        if id(tensor) in seen:
            return seen[id(tensor)]
        detached = tensor.detach()
        if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
            result = detached.clone()
        elif tensor.is_meta:
            result = torch.empty_strided(
                tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta"
            )
        else:
            storage = detached.untyped_storage()
            address = storage.data_ptr()
            if address not in storages:
                storages[address] = storage.clone()
            result = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(
                storages[address], tensor.storage_offset(), tensor.size(), tensor.stride()
            )
        seen[id(tensor)] = result
        return result

    return [copy(tensor) for tensor in tensors]


def parameter_with(gradient: Tensor | None) -> Tensor:
    """A parameter that has this very tensor as its gradient."""
    if gradient is None:
        return torch.nn.Parameter(torch.zeros(2))
    parameter = torch.zeros(gradient.shape, dtype=gradient.dtype, device=gradient.device)
    if gradient.is_floating_point() or gradient.is_complex():
        parameter.requires_grad_()
    parameter.grad = gradient
    return parameter


def parameters_with(gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """One parameter for each gradient; the same gradient twice is the same parameter twice."""
    made: dict[int, Tensor] = {}
    parameters = []
    for gradient in gradients:
        if gradient is None:
            parameters.append(parameter_with(None))
            continue
        if id(gradient) not in made:
            made[id(gradient)] = parameter_with(gradient)
        parameters.append(made[id(gradient)])
    return parameters


@dataclass
class Outcome:
    """What a call did: its result or exception, its warnings, and the gradients afterwards."""

    gradients: list[Tensor]
    before: list[Tensor]
    versions: list[int]
    result: Any = None
    exception: Exception | None = None
    warnings: list[tuple[type[Warning], str, str]] = field(default_factory=list)

    def bumped(self) -> list[bool]:
        return [g._version > v for g, v in zip(self.gradients, self.versions, strict=True)]

    def untouched(self) -> bool:
        return all(
            storage_bytes(now) == storage_bytes(then)
            for now, then in zip(self.gradients, self.before, strict=True)
        )


def observe(call: Callable[[], Any], gradients: Sequence[Tensor | None]) -> Outcome:
    """Makes the call and records what it did to `gradients`."""
    present = [g for g in gradients if g is not None]
    outcome = Outcome(
        gradients=present,
        before=[g for g in copies_with_layout(present) if g is not None],
        versions=[0 if g.is_inference() else g._version for g in present],
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            outcome.result = call()
        except Exception as error:
            outcome.exception = error
    outcome.warnings = [(w.category, str(w.message), w.filename) for w in caught]
    return outcome


def side_by_side(
    name: str,
    gradients: Sequence[Tensor | None],
    *args: Any,
    collect: Callable[[list[Tensor]], Any] = list,
    **kwargs: Any,
) -> tuple[Outcome, Outcome]:
    """native's outcome and ours of the function `name` on copies of the same gradients.

    `collect` makes the first argument from the list of parameters (of tensors, for
    get_total_norm): a generator, a single tensor, ...
    """
    outcomes = []
    for library in (torch.nn.utils, gradkern):
        own = copies_with_layout(gradients)
        if name == "get_total_norm":
            first: Any = [g for g in own if g is not None]
        else:
            first = parameters_with(own)
        function = getattr(library, name)
        outcomes.append(
            observe(lambda f=function, x=first: f(collect(x), *args, **kwargs), own)  # type: ignore[misc]
        )
    return outcomes[0], outcomes[1]


def assert_same(
    native: Outcome, ours: Outcome, ulps: dict[torch.dtype, float] | None = None
) -> None:
    """Asserts that ours did what native did: in kind exactly, in value to `ulps`."""
    ulps = NATIVE_ULPS if ulps is None else ulps
    assert_same_exception(native, ours)
    if native.exception is not None:
        return
    assert ours.warnings == native.warnings
    assert type(ours.result) is type(native.result)
    if isinstance(native.result, Tensor):
        _assert_same_tensor(ours.result, native.result, ulps, "the result")
        assert ours.result.requires_grad == native.result.requires_grad
    for i, (got, want) in enumerate(zip(ours.gradients, native.gradients, strict=True)):
        _assert_same_tensor(got, want, ulps, f"gradient {i}")
        assert got.storage_offset() == want.storage_offset()
    if not any(g.is_inference() for g in ours.gradients):
        assert ours.bumped() == native.bumped()


def assert_same_exception(native: Outcome, ours: Outcome) -> None:
    """Asserts that both raised the same type (or neither), and that ours touched nothing if so."""
    if native.exception is None:
        assert ours.exception is None, f"native accepts what ours refuses: {ours.exception!r}"
        return
    assert ours.exception is not None, f"native raises {native.exception!r}, ours does not"
    assert type(ours.exception) is type(native.exception), repr(ours.exception)
    assert str(ours.exception), "an exception without a message"
    assert ours.untouched(), "gradients were modified although an exception was raised"


def _assert_same_tensor(
    got: Tensor, want: Tensor, ulps: dict[torch.dtype, float], what: str
) -> None:
    assert got.dtype == want.dtype, f"{what}: {got.dtype} where native has {want.dtype}"
    assert got.device == want.device, f"{what}: {got.device} where native has {want.device}"
    assert got.shape == want.shape, f"{what}: {got.shape} where native has {want.shape}"
    assert got.layout == want.layout
    if got.layout != torch.strided:
        got, want = got.coalesce(), want.coalesce()
        assert torch.equal(got.indices(), want.indices())
        got, want = got.values(), want.values()
    assert got.stride() == want.stride(), f"{what}: {got.stride()} where native has {want.stride()}"
    if got.is_meta or got.numel() == 0:
        return
    if not (got.is_floating_point() or got.is_complex()):
        assert torch.equal(got, want), what
        return
    dtype = torch.view_as_real(want).dtype if want.is_complex() else want.dtype
    wide = want.resolve_conj().resolve_neg()
    wide = torch.view_as_real(wide) if wide.is_complex() else wide
    distance = ulp_distance(got, wide.double().cpu().numpy(), dtype)
    assert distance <= ulps.get(dtype, 1.0), f"{what} is {distance} ulp from native's: {got} {want}"


def storage_bytes(tensor: Tensor) -> bytes:
    """The bytes of the tensor's storage, the gaps between its elements included."""
    if tensor.is_meta:
        return b""
    if tensor.layout != torch.strided:
        tensor = tensor.coalesce().values()
    storage = tensor.detach().untyped_storage()
    as_bytes = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(
        storage, 0, (storage.nbytes(),), (1,)
    )
    return as_bytes.cpu().numpy().tobytes()
