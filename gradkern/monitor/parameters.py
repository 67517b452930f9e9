"""The parameters that are watched: their names, their order, and which modules they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parameter import is_lazy


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside ``torch.compile`` and data-parallel wrappers, whose names users know."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(
            model, (nn.DataParallel, nn.parallel.DistributedDataParallel)
        ):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def matches(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether shell-style patterns let a name through: one of `include`, and none of `exclude`."""
    return any(fnmatchcase(name, p) for p in include) and not any(
        fnmatchcase(name, p) for p in exclude
    )


def parameters_of(model: nn.Module) -> list[nn.Parameter]:
    """As ``model.parameters()``, which makes names on its way that nobody asks for at every step.

    Example:
        >>> from gradkern.monitor.parameters import parameters_of
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.PReLU())
        >>> parameters_of(model) == list(model.parameters())
        True
    """
    found: dict[int, nn.Parameter] = {}
    seen: set[int] = set()
    waiting: list[nn.Module | None] = [model]
    while waiting:
        module = waiting.pop()
        if module is None or id(module) in seen:
            continue
        seen.add(id(module))
        for parameter in module._parameters.values():
            if parameter is not None:
                found.setdefault(id(parameter), parameter)
        waiting.extend(reversed(module._modules.values()))
    return list(found.values())


@dataclass(frozen=True)
class WatchedParameter:
    """A parameter, once, under the first name it has."""

    name: str
    parameter: nn.Parameter
    module: nn.Module
    """The module that holds it under this name."""

    @property
    def layer(self) -> str:
        """The name of that module; empty for a parameter of the model itself."""
        return self.name.rpartition(".")[0]


class WatchedParameters:
    """The parameters of a model in the order in which it registers them, the input's first.

    Frozen ones (``requires_grad=False``) are left out until they are trained; shared ones count
    once; ones that are added later join at the next :meth:`refresh`.

    Args:
        model: its wrappers (``torch.compile``, data parallel) are looked through.
        include, exclude: shell-style patterns of names.
    """

    def __init__(
        self, model: nn.Module, include: Sequence[str] = ("*",), exclude: Sequence[str] = ()
    ) -> None:
        self.model = model
        self._include, self._exclude = tuple(include), tuple(exclude)
        self._signature: list[tuple[int, bool, bool]] = []
        self.watched: list[WatchedParameter] = []
        self.frozen: list[str] = []
        self.names: tuple[str, ...] = ()
        self.index: dict[int, int] = {}
        """From a parameter's id to its place."""
        self.refresh()

    def refresh(self) -> bool:
        """Looks for parameters that came, went, froze or thawed; whether there were any."""
        signature = [(id(p), p.requires_grad, is_lazy(p)) for p in parameters_of(self.model)]
        if signature == self._signature:
            return False
        self._signature = signature
        self.watched, self.frozen = [], []
        seen: set[int] = set()
        for prefix, module in self.model.named_modules():
            for own_name, parameter in module.named_parameters(prefix, recurse=False):
                if id(parameter) in seen or is_lazy(parameter):
                    continue
                seen.add(id(parameter))
                if not matches(own_name, self._include, self._exclude):
                    continue
                if parameter.requires_grad:
                    self.watched.append(WatchedParameter(own_name, parameter, module))
                else:
                    self.frozen.append(own_name)
        self.index = {id(w.parameter): i for i, w in enumerate(self.watched)}
        self.names = tuple(w.name for w in self.watched)
        return True

    @property
    def tensors(self) -> list[nn.Parameter]:
        """The watched parameters, in order."""
        return [w.parameter for w in self.watched]
