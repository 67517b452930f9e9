"""Lists of tensors as the public functions take them: what they accept and what they refuse."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

TensorOrTensors: TypeAlias = Tensor | Iterable[Tensor]

# Subclasses have semantics of their own (DTensor: sharded). A parameter has none, nor has the
# tensor that stands for another one while a program is traced.
PLAIN_TYPES = {Tensor, torch.nn.Parameter, FakeTensor}


def as_list(tensors: TensorOrTensors, argument: str) -> list[Tensor]:
    """The tensors that were given, as a list.

    Raises:
        TypeError: it is neither a tensor nor an iterable. (What an iterable holds is not looked
            at.)
    """
    if isinstance(tensors, list):
        return tensors
    if isinstance(tensors, Tensor):
        return [tensors]
    if not isinstance(tensors, Iterable):
        raise TypeError(
            f"{argument} is a {type(tensors).__name__}; it must be a tensor or an iterable of "
            "tensors"
        )
    return list(tensors)


def are_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether all are tensors or parameters, and none is of a subclass."""
    return PLAIN_TYPES.issuperset(map(type, tensors))


def require_tensors(tensors: Sequence[object], argument: str) -> None:
    """Raises TypeError, naming the element, if one of them is no tensor."""
    for index, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{argument}[{index}] is a {type(tensor).__name__}; it must be a tensor"
            )


def require_kernels(tensors: Sequence[Tensor], names: Sequence[str]) -> None:
    """For functions that native does not have: what has no kernels is an error that says why.

    Raises:
        TypeError: a tensor is of a subclass.
        NotImplementedError: it is sparse.
        RuntimeError: it is on another device than the first.
    """
    for name, tensor in zip(names, tensors, strict=True):
        if type(tensor) not in PLAIN_TYPES:
            raise TypeError(f"{name} is a {type(tensor).__name__}; it must be a plain torch.Tensor")
        if tensor.layout != torch.strided:
            raise NotImplementedError(
                f"{name} has layout {tensor.layout}; it must be torch.strided"
            )
        if tensor.device != tensors[0].device:
            raise RuntimeError(
                f"{name} is on {tensor.device}; all must be on one device, "
                f"{tensors[0].device} like {names[0]}"
            )
