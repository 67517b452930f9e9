"""gradkern's own batch normalisations: they measure their output in the pass that computes it."""

from __future__ import annotations

import torch
from torch import nn

from gradkern.batch_norm_stats import BatchNormStats
from gradkern.monitor.activation_kinds import is_activation, kind_of
from gradkern.monitor.model_hooks import StatisticsHook
from gradkern.monitor.own_statistics import OwnModule, OwnStatistics
from gradkern.nn.batch_norm import FusedBatchNorm


class OwnBatchNorm(OwnModule):
    """Takes the statistics that a batch normalisation of :mod:`gradkern.nn` offers.

    A module whose ``on_stats`` is in use already is left alone, and measured as others are.

    Args:
        module: the module.
    """

    def __init__(self, module: FusedBatchNorm) -> None:
        self._module = module

    @classmethod
    def of(cls, module: nn.Module) -> OwnBatchNorm | None:
        """For a module of gradkern's whose statistics nobody else takes; None for others."""
        if isinstance(module, FusedBatchNorm) and module.on_stats is None:
            return cls(module)
        return None

    def measure_output(self, enabled: bool) -> None:
        """Sets the module's ``on_stats``, or puts it back."""
        self._module.on_stats = StatisticsHook(self._take) if enabled else None
        self._module.measures_output = enabled

    def _take(self, module: FusedBatchNorm, stats: BatchNormStats) -> None:
        if stats.output is None or torch.compiler.is_compiling():
            return
        self._last = OwnStatistics(stats.output, kind_of(module), is_activation(module))
