"""Batch normalisation as modules: drop-ins for those of :mod:`torch.nn`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradkern.activations import ActivationStats
from gradkern.batch_norm import fused_activation
from gradkern.batch_norm_autograd import BatchNormPlan, Normalised
from gradkern.batch_norm_functions import normalise, require_invertible
from gradkern.batch_norm_stats import BatchNormStats

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]

# A last batch of 3 rows took a network of 30 layers from an accuracy of .967 to .58.
FEW_VALUES = 8

if TYPE_CHECKING:
    _Base = torch.nn.modules.batchnorm._BatchNorm
else:
    _Base = object


class FusedBatchNorm(_Base):
    """What gradkern's batch normalisations add to torch's.

    Attributes:
        activation: what follows the normalisation (and the addition of a residual).
        activation_parameter: its parameter, or None for the default.
        memory_efficient: whether backward keeps the output, and no input.
        on_stats: if set, called with the module and the :class:`gradkern.BatchNormStats` of every
            forward pass in training.
        measures_output: whether these include the statistics of the output, from the pass that
            writes it (``BatchNormStats.output``).
    """

    activation: str = "identity"
    activation_parameter: float | None = None
    memory_efficient: bool = False
    on_stats: Callable[[FusedBatchNorm, BatchNormStats], None] | None = None
    measures_output: bool = False

    def __init__(
        self,
        *arguments: Any,
        activation: str = "identity",
        activation_parameter: float | None = None,
        memory_efficient: bool = False,
        **keywords: Any,
    ) -> None:
        fused = fused_activation(activation, activation_parameter)
        if memory_efficient:
            require_invertible(fused)
        super().__init__(*arguments, **keywords)
        if activation != "identity":
            self.activation = activation
            self.activation_parameter = activation_parameter
        if memory_efficient:
            self.memory_efficient = True

    def extra_repr(self) -> str:
        shown: str = super().extra_repr()  # type: ignore[no-untyped-call]
        if self.activation != "identity":
            shown += f", activation={self.activation}"
        if self.activation_parameter is not None:
            shown += f", activation_parameter={self.activation_parameter}"
        if self.memory_efficient:
            shown += ", memory_efficient=True"
        return shown

    def _plan(self) -> BatchNormPlan:
        activation = fused_activation(self.activation, self.activation_parameter)
        with_stats = self.measures_output and self.on_stats is not None
        return BatchNormPlan(self.eps, activation, self.memory_efficient, with_stats)

    def _momentum(self) -> float:
        """Counts the batch, and says how far the running statistics move; as torch does."""
        if not (self.training and self.track_running_stats):
            return 0.0
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # the mean over all batches
                return 1.0 / float(self.num_batches_tracked)
        return 0.0 if self.momentum is None else self.momentum

    def _running(self) -> tuple[Tensor | None, Tensor | None]:
        if self.training and not self.track_running_stats:
            return None, None
        return self.running_mean, self.running_var

    def _normalise(
        self, input: Tensor, residual: Tensor | None, training: bool, momentum: float
    ) -> Normalised:
        return normalise(
            input,
            residual,
            self.weight,
            self.bias,
            *self._running(),
            training,
            momentum,
            self._plan(),
        )

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        training = self.training or (self.running_mean is None and self.running_var is None)
        measured = self.on_stats is not None and self.training
        before = self._statistics_before() if measured else None
        output, mean, invstd, output_stats = self._normalise(
            input, residual, training, self._momentum()
        )
        if self.training and not torch.compiler.is_compiling():
            self._warn_of_few(input)
        if measured and self.on_stats is not None and mean is not None and invstd is not None:
            count = input.numel() // input.shape[1]
            of_output = (
                None if output_stats is None else ActivationStats(output_stats, output.numel())
            )
            stats = BatchNormStats(mean, invstd, count, self.eps, self.weight, before, of_output)
            self.on_stats(self, stats)
        return output

    def _statistics_before(self) -> tuple[Tensor, Tensor] | None:
        mean, var = self._running()
        return None if mean is None or var is None else (mean.clone(), var.clone())

    def _warn_of_few(self, input: Tensor) -> None:
        count = input.numel() // max(input.shape[1], 1)
        if 0 < count < FEW_VALUES:
            warnings.warn(
                f"batch normalisation of {count} values per channel: their statistics say little; "
                "use larger batches, or drop_last=True where it is a last, smaller batch",
                UserWarning,
                stacklevel=3,
            )


class BatchNorm1d(FusedBatchNorm, torch.nn.BatchNorm1d):
    """Batch normalisation of ``[N, C]`` or ``[N, C, L]``, with an activation in the same pass.

    Args:
        num_features, eps, momentum, affine, track_running_stats, device, dtype: as for
            :class:`torch.nn.BatchNorm1d`.
        activation: "identity", "relu", "leaky_relu", "elu", "silu" or "gelu".
        activation_parameter: ``negative_slope`` of leaky_relu, ``alpha`` of elu.
        memory_efficient: keep the output for backward in place of the input, as
            :func:`gradkern.functional.batch_norm` says: no drop-in.

    Raises:
        ValueError: ``activation`` is unknown, or can't be undone for ``memory_efficient``; in
            ``forward``, as :func:`gradkern.functional.batch_norm`.

    Source:
        Ioffe, Szegedy, "Batch normalization", 2015.

    Example:
        >>> gradkern.nn.BatchNorm1d(2, activation="relu")(torch.eye(8, 2)).shape
        torch.Size([8, 2])
    """


class BatchNorm2d(FusedBatchNorm, torch.nn.BatchNorm2d):
    """Batch normalisation of images ``[N, C, H, W]``, with addition and activation in one pass.

    Arguments, errors and source as for :class:`BatchNorm1d`; ``forward(input, residual=None)`` adds
    ``residual`` before the activation.

    Example:
        >>> layer = gradkern.nn.BatchNorm2d(3, activation="relu")
        >>> x = torch.zeros(2, 3, 4, 4)
        >>> layer(x, residual=torch.ones_like(x)).mean().item()
        1.0
    """


class BatchNorm3d(FusedBatchNorm, torch.nn.BatchNorm3d):
    """Batch normalisation of volumes ``[N, C, D, H, W]``, with addition and activation in one pass.

    Arguments, errors and source as for :class:`BatchNorm1d`.

    Example:
        >>> gradkern.nn.BatchNorm3d(3)(torch.zeros(2, 3, 2, 2, 2)).shape
        torch.Size([2, 3, 2, 2, 2])
    """
