"""How a gradient changes on its way back through time, in torch's recurrent modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradkern import ops
from gradkern.monitor.model_hooks import ModelHook
from gradkern.monitor.record import Floats

# One sequence at every 16th measured step: a weight changes slowly, and a probe is a forward and a
# backward pass of its own.
PROBE_EVERY = 16


class RecurrenceMeter:
    """Sends a random gradient back through one sequence and measures what reaches each time step.

    The weights of a recurrent module are shared by all time steps, so their gradients don't show
    what vanishes on the way. The probe differentiates the last output with respect to the module's
    input, at each time step, for the first sequence of a batch.

    Args:
        model: whose ``nn.RNN``, ``nn.LSTM`` and ``nn.GRU`` are watched.
    """

    def __init__(self, model: nn.Module) -> None:
        self.watched = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.RNNBase)]
        self.enabled = True
        self._inputs: dict[int, Tensor] = {}
        self._turn = 0
        self.handles: list[RemovableHandle] = [
            module.register_forward_hook(ModelHook(self._remember(i)))
            for i, (_, module) in enumerate(self.watched)
        ]

    def close(self) -> None:
        """Removes every hook."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self._inputs.clear()

    def _remember(self, index: int) -> Any:
        def hook(module: nn.RNNBase, args: tuple[Any, ...], output: Any) -> None:
            if torch.compiler.is_compiling() or not self.enabled or self._turn % PROBE_EVERY:
                return
            if not (module.training and torch.is_grad_enabled() and args):
                return
            given = args[0]
            if isinstance(given, Tensor) and given.dim() == 3 and given.is_floating_point():
                one = given[:1] if module.batch_first else given[:, :1]
                self._inputs[index] = one.detach()

        return hook

    def finish_step(self) -> list[tuple[str, Tensor]]:
        """For each probed module the norms of the gradient at each time step, float64 ``[T]``."""
        probed = [
            (self.watched[i][0], _norms_over_time(self.watched[i][1], given))
            for i, given in self._inputs.items()
        ]
        self._inputs.clear()
        self._turn += 1
        return probed


def _norms_over_time(module: nn.RNNBase, sequence: Tensor) -> Tensor:
    dropout = module.dropout
    # Dropout would draw random numbers and so change the training that is being watched.
    module.dropout = 0.0
    try:
        with torch.enable_grad():
            given = sequence.requires_grad_()
            output = module.forward(given)[0]  # not a call: no hook may count it
            last = output[:, -1] if module.batch_first else output[-1]
            # Alternating signs: a fixed direction that no symmetry of the weights cancels.
            direction = torch.ones_like(last)
            direction[..., ::2] = -1
            (gradient,) = torch.autograd.grad(last, given, direction)
    finally:
        module.dropout = dropout
    over_time = gradient[0] if module.batch_first else gradient[:, 0]
    norms: Tensor = ops.tensor_norms(list(over_time.unbind(0)), 2.0)
    return norms


def decades_per_time_step(norms: Floats) -> float:
    """The least-squares slope of log10(norm) per time step, on the way back.

    Args:
        norms: of the gradient at each time step, the first one's first, shape ``[T]``.

    Returns:
        Below 0 the gradient vanishes, above it explodes; NaN for fewer than three time steps.

    Example:
        >>> import numpy as np
        >>> from gradkern.monitor.recurrence import decades_per_time_step
        >>> round(decades_per_time_step(np.array([1e-4, 1e-3, 1e-2, 1e-1])), 6)
        -1.0
    """
    known = np.isfinite(norms) & (norms > 0)
    if known.sum() < 3:
        return float("nan")
    steps = np.arange(len(norms))[known]
    return float(-np.polyfit(steps, np.log10(norms[known]), 1)[0])


def slopes(names: list[str], arrays: Iterator[Floats]) -> dict[str, float]:
    """The slope of each probed module, from norms that have arrived."""
    return {name: decades_per_time_step(next(arrays)) for name in names}
