"""What a batch normalisation saw of its batch."""

from __future__ import annotations

import torch
from torch import Tensor

from gradkern.activations import ActivationStats


class BatchNormStats:
    """Statistics of one forward pass in training, on its device, not yet waited for.

    They follow from the mean and variance that the normalisation needs anyway: no pass over the
    input is added. All but ``output`` are float64 tensors without dimensions.

    Attributes:
        mean, invstd: the batch's, float64, shape ``[C]``.
        count: values per channel.
        output: the :class:`gradkern.ActivationStats` of the output, with the channels' active
            elements; None where the module's ``measures_output`` is False.

    Example:
        >>> layer = gradkern.nn.BatchNorm1d(2)
        >>> layer.on_stats = lambda module, stats: print(round(stats.gain_max.item(), 6))
        >>> y = layer(torch.tensor([[0.0, 0.0], [2.0, 20.0]]).repeat(4, 1))
        0.999995
    """

    def __init__(
        self,
        mean: Tensor,
        invstd: Tensor,
        count: int,
        eps: float,
        weight: Tensor | None = None,
        running: tuple[Tensor, Tensor] | None = None,
        output: ActivationStats | None = None,
    ) -> None:
        self.mean = mean
        self.invstd = invstd
        self.count = count
        self.output = output
        self._eps = eps
        self._weight = None if weight is None else weight.detach()
        self._running = running

    def __repr__(self) -> str:
        return (
            f"BatchNormStats(channels={self.mean.shape[0]}, count={self.count}, "
            f"device={self.mean.device})"
        )

    @property
    def var(self) -> Tensor:
        """The batch's biased variance, shape ``[C]``."""
        return (self.invstd.pow(-2) - self._eps).clamp(min=0)

    @property
    def mean_min(self) -> Tensor:
        """Smallest mean of a channel."""
        return self.mean.min()

    @property
    def mean_max(self) -> Tensor:
        """Largest mean of a channel."""
        return self.mean.max()

    @property
    def var_min(self) -> Tensor:
        """Smallest variance of a channel: near ``eps``, the channel is constant."""
        return self.var.min()

    @property
    def var_max(self) -> Tensor:
        """Largest variance of a channel."""
        return self.var.max()

    @property
    def gain_max(self) -> Tensor:
        """Largest ``|weight| / std``: the factor by which a gradient may grow here."""
        gain = self.invstd if self._weight is None else self._weight.double().abs() * self.invstd
        return gain.max()

    @property
    def drift(self) -> Tensor:
        """Largest distance of a batch's mean from the running one, in running standard deviations.

        NaN without running statistics. Taken before they moved.
        """
        if self._running is None:
            return torch.full((), torch.nan, dtype=torch.float64, device=self.mean.device)
        running_mean, running_var = (r.double() for r in self._running)
        return ((self.mean - running_mean).abs() / (running_var + self._eps).sqrt()).max()

    derived: tuple[str, ...] = (
        "mean_min",
        "mean_max",
        "var_min",
        "var_max",
        "gain_max",
        "drift",
    )

    def to_dict(self) -> dict[str, float]:
        """The statistics as Python numbers; waits for a GPU once."""
        columns = torch.stack([getattr(self, name) for name in self.derived])
        return dict(zip(self.derived, columns.tolist(), strict=True))
