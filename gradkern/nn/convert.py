"""Replaces torch's activation modules in a model by ours."""

from __future__ import annotations

import torch

from gradkern.activations import TABLE
from gradkern.nn import activation_modules
from gradkern.nn.gelu import GELU
from gradkern.nn.prelu import PReLU
from gradkern.nn.rrelu import RReLU
from gradkern.nn.softmax import LogSoftmax, Softmax, Softmin

_OURS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    getattr(torch.nn, row.module): getattr(activation_modules, row.module)
    for row in TABLE.values()
    if hasattr(torch.nn, row.module) and hasattr(activation_modules, row.module)
}
_OURS[torch.nn.GELU] = GELU
_OURS.update(
    {
        torch.nn.PReLU: PReLU,
        torch.nn.RReLU: RReLU,
        torch.nn.Softmax: Softmax,
        torch.nn.LogSoftmax: LogSoftmax,
        torch.nn.Softmin: Softmin,
    }
)


def convert_activations(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Replaces torch's activation modules in a model, in place, by gradkern's.

    Attributes, hooks and training mode are kept; a module that stands in several places is replaced
    by one. Subclasses of torch's modules are left alone.

    Args:
        model: the model; if it is itself an activation, it can't be replaced in place.

    Returns:
        What was replaced: torch's modules by their (first) qualified name.

    Raises:
        TypeError: ``model`` is not a module, or is itself an activation.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.SiLU())
        >>> gradkern.nn.convert_activations(model)
        {'1': SiLU()}
        >>> type(model[1])
        <class 'gradkern.nn.activation_modules.SiLU'>
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; it must be a torch.nn.Module")
    if type(model) in _OURS:
        raise TypeError(
            f"model is a {type(model).__name__} itself; it must be a module that contains it"
        )
    replaced: dict[str, torch.nn.Module] = {}
    ours_of: dict[int, torch.nn.Module] = {}
    for parent_name, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            if type(child) not in _OURS:
                continue
            ours = ours_of.get(id(child))
            if ours is None:
                ours = ours_of[id(child)] = _like(child)
                replaced[f"{parent_name}.{name}" if parent_name else name] = child
            # named_children gives a module once, even where it has two names.
            for other_name, other in parent._modules.items():
                if other is child:
                    parent._modules[other_name] = ours
    return replaced


def _like(module: torch.nn.Module) -> torch.nn.Module:
    cls = _OURS[type(module)]
    ours = cls.__new__(cls)
    ours.__dict__ = dict(module.__dict__)
    return ours
