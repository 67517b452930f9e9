"""Batch normalisation over the processes of a group."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from gradkern import batch_norm as operators
from gradkern.batch_norm_autograd import BatchNormPlan, Normalised
from gradkern.batch_norm_functions import applied_weight
from gradkern.nn.batch_norm import FusedBatchNorm

__all__ = ["SyncBatchNorm"]


def _joined(rows: Tensor, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and sum of squared deviations of all processes' values, merged in rank order.

    Chan, Golub and LeVeque 1979; `rows` holds a count, means and squares for each process.
    """
    counts = rows[:, :1]
    # A process without values has no mean either.
    means = torch.where(counts > 0, rows[:, 1 : 1 + channels], 0.0)
    squares = torch.where(counts > 0, rows[:, 1 + channels :], 0.0)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    return total, mean, (squares + counts * (means - mean).square()).sum(0)


def _gathered(row: Tensor, group: Any) -> Tensor:
    size = torch.distributed.get_world_size(group)
    rows = [torch.empty_like(row) for _ in range(size)]
    torch.distributed.all_gather(rows, row, group=group)
    return torch.stack(rows)


class _Synchronised(Function):
    """(input, residual, weight, bias) -> value, mean, invstd of all processes' values together (,
    the statistics of this one's value)."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        plan: BatchNormPlan,
        group: Any,
    ) -> tuple[Tensor, ...]:
        channels = input.shape[1]
        mean, squares = operators.moments(input)
        count = mean.new_full((1,), input.numel() / max(channels, 1))
        rows = _gathered(torch.cat([count, mean, squares]), group)
        total, mean, squares = _joined(rows, channels)
        # On a GPU the number would have to be waited for.
        if total.device.type == "cpu" and total.item() <= 1:
            raise ValueError(
                "Expected more than 1 value per channel when training, got input size "
                f"{input.shape} and nothing in the other processes"
            )
        invstd = (squares / total + plan.eps).rsqrt()
        if running_mean is not None and running_var is not None:
            running_mean.mul_(1 - momentum).add_(mean * momentum)
            running_var.mul_(1 - momentum).add_(squares / (total - 1) * momentum)
        call = input, residual, weight, bias, mean, invstd, *plan.arguments
        measured: tuple[Tensor, ...] = ()
        if plan.with_stats:
            output, *measured = operators.normalise_with_stats(*call)
        else:
            output = operators.normalise(*call)
        kept = plan.kept(input, output)
        ctx.save_for_backward(kept, residual, weight, bias, mean, invstd, total)
        ctx.plan, ctx.group = plan, group
        ctx.mark_non_differentiable(mean, invstd, *measured)
        return output, mean, invstd, *measured

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        *saved, total = ctx.saved_tensors
        _, _, weight, bias, _, _ = saved
        plan: BatchNormPlan = ctx.plan
        needed = ctx.needs_input_grad
        sum_dz, sum_dz_xhat = operators.sums(grad, *saved, *plan.gradient_arguments)
        # Every process takes part, whether or not its own input wants a gradient.
        of_all = torch.cat([sum_dz, sum_dz_xhat])
        torch.distributed.all_reduce(of_all, group=ctx.group)
        mean_dz, mean_dz_xhat = (of_all / total).chunk(2)
        of_input, of_residual = operators.input_gradient(
            grad, *saved, mean_dz, mean_dz_xhat, 1.0, *plan.gradient_arguments, needed[1]
        )
        return (
            of_input if needed[0] else None,
            of_residual if needed[1] else None,
            # Of this process's values, as in torch: DistributedDataParallel averages them.
            sum_dz_xhat.to(weight.dtype) if weight is not None and needed[2] else None,
            sum_dz.to(bias.dtype) if bias is not None and needed[3] else None,
            *[None] * 5,
        )


class SyncBatchNorm(FusedBatchNorm, torch.nn.SyncBatchNorm):
    """Batch normalisation by the statistics of all processes' batches together.

    On CPUs as well (gloo), where torch's needs a GPU. Processes may have batches of different
    sizes. One exchange of ``2 C + 1`` numbers forward, and of ``2 C`` backward.

    Args:
        num_features, eps, momentum, affine, track_running_stats, process_group, device, dtype: as
            for :class:`torch.nn.SyncBatchNorm`.
        activation, activation_parameter, memory_efficient: as for :class:`BatchNorm1d`.

    Raises:
        ValueError: in ``forward``, in training: one value per channel in all processes together.
        RuntimeError: a second derivative is asked for.

    Source:
        Ioffe, Szegedy, 2015; merging of moments: Chan, Golub, LeVeque, 1979.

    Example:
        >>> gradkern.nn.SyncBatchNorm(4)(torch.zeros(8, 4)).shape
        torch.Size([8, 4])
    """

    def _normalise(
        self, input: Tensor, residual: Tensor | None, training: bool, momentum: float
    ) -> Normalised:
        group = self._group() if self.training and training else None
        if group is None:
            return super()._normalise(input, residual, training, momentum)
        plan = self._plan()
        weight = applied_weight(input, residual, self.weight, plan)
        return Normalised(
            *_Synchronised.apply(
                input, residual, weight, self.bias, *self._running(), momentum, plan, group
            )
        )

    def _group(self) -> Any:
        """The process group, or None where there is nobody to exchange with."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return None
        group = self.process_group or torch.distributed.group.WORLD
        return group if torch.distributed.get_world_size(group) > 1 else None

    @classmethod
    def convert_sync_batchnorm(
        cls, module: torch.nn.Module, process_group: Any = None
    ) -> torch.nn.Module:
        """Replaces every batch normalisation in a module by this one.

        Args:
            module: the model; torch's batch normalisations and gradkern's are replaced, with their
                parameters, buffers and activation.
            process_group: the processes that normalise together; None: all.

        Returns:
            ``module``, or what replaces it.

        Example:
            >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(2))
            >>> model = gradkern.nn.SyncBatchNorm.convert_sync_batchnorm(model)
            >>> type(model[0]).__name__
            'SyncBatchNorm'
        """
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            ours = cls.__new__(cls)
            ours.__dict__ = dict(module.__dict__)
            ours.process_group = process_group
            return ours
        for name, child in module.named_children():
            setattr(module, name, cls.convert_sync_batchnorm(child, process_group))
        return module
