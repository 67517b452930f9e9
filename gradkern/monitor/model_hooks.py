"""Callbacks that a model carries while it is watched, and that its copies do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    pass


class ModelHook:
    """A hook of the model that is watched. In copies and pickles of the model it does nothing.

    (A bound method would take the monitor along, into every checkpoint and averaged copy.)

    Args:
        call: what is called.

    Example:
        >>> import copy
        >>> from gradkern.monitor.model_hooks import ModelHook
        >>> hook = ModelHook(lambda module: print("called"))
        >>> hook(None)
        called
        >>> copy.deepcopy(hook)(None)
    """

    def __init__(self, call: Callable[..., None] = _do_nothing) -> None:
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self._call(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return ModelHook, ()


class StatisticsHook(ModelHook):
    """The ``on_stats`` of a module that is watched: None in copies, which then measure nothing."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()
