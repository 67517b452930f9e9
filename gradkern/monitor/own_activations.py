"""gradkern's own activation modules: they measure their output in the pass that computes it."""

from __future__ import annotations

import torch
from torch import nn

from gradkern.activations import ActivationStats
from gradkern.monitor.activation_kinds import kind_of
from gradkern.monitor.model_hooks import StatisticsHook
from gradkern.monitor.own_statistics import OwnModule, OwnStatistics
from gradkern.nn.activation_module import ActivationModule


class OwnActivation(OwnModule):
    """Takes the statistics that a module of :mod:`gradkern.nn` offers.

    A module whose ``on_stats`` is in use already is left alone, and measured as others are.

    Args:
        module: the module.
        unit_axis: the dimension of the units in its output.
    """

    def __init__(self, module: ActivationModule, unit_axis: int) -> None:
        self._module = module
        self._kind = kind_of(module)
        self._unit_axis = unit_axis if module.channel_dim is None else module.channel_dim
        self._own_axis = module.channel_dim

    @classmethod
    def of(cls, module: nn.Module, unit_axis: int) -> OwnActivation | None:
        """For a module of gradkern's whose statistics nobody else takes; None for others."""
        if isinstance(module, ActivationModule) and module.on_stats is None:
            return cls(module, unit_axis)
        return None

    def measure_output(self, enabled: bool) -> None:
        """Sets the module's ``on_stats``, or puts it back."""
        self._module.on_stats = StatisticsHook(self._take) if enabled else None
        # Only where units can die are they counted.
        counts = enabled and self._kind.can_die
        self._module.channel_dim = self._unit_axis if counts else self._own_axis

    def _take(self, module: ActivationModule, stats: ActivationStats) -> None:
        if torch.compiler.is_compiling():
            return
        self._last = OwnStatistics(stats, self._kind)
