"""gradkern's own batch normalisations: they measure their output in the pass that computes it."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from gradkern.batch_norm_stats import BatchNormStats
from gradkern.monitor.activation_kinds import is_activation, kind_of
from gradkern.monitor.own_activations import of_activation
from gradkern.monitor.self_measuring import OutputStatistics
from gradkern.nn.batch_norm import FusedBatchNorm


class OwnBatchNorm:
    """Takes the statistics that a batch normalisation of :mod:`gradkern.nn` offers.

    A module whose ``on_stats`` is in use already is left alone, and measured as others are.

    Args:
        module: the module.
    """

    def __init__(self, module: FusedBatchNorm) -> None:
        self._module = module
        self._last: OutputStatistics | None = None

    @classmethod
    def of(cls, module: nn.Module) -> OwnBatchNorm | None:
        """For a module of gradkern's whose statistics nobody else takes; None for others."""
        if isinstance(module, FusedBatchNorm) and module.on_stats is None:
            return cls(module)
        return None

    def measure_output(self, enabled: bool) -> None:
        """Sets the module's ``on_stats``, or puts it back."""
        self._module.on_stats = self._take if enabled else None
        self._module.measures_output = enabled

    def output_statistics(self) -> OutputStatistics | None:
        """Of the last forward pass."""
        last, self._last = self._last, None
        return last

    def _take(self, module: FusedBatchNorm, stats: BatchNormStats) -> None:
        if stats.output is None or torch.compiler.is_compiling():
            return
        self._last = of_activation(stats.output, kind_of(module))
        if not is_activation(module):
            # Nothing bends here, so that there is no slope to report.
            self._last = dataclasses.replace(self._last, derivative=None)
