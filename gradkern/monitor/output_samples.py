"""Parts of outputs that stand for the whole: what is read of large ones at each step."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_axis_of(tensor: Tensor, channels_second: bool) -> int:
    """The axis of the units: of channels or features; 0 below two dimensions."""
    dims = tensor.dim()
    if dims < 2:
        return 0
    return 1 if dims in (2, 4, 5) or (dims == 3 and channels_second) else dims - 1


def whole_rows(tensor: Tensor, elements: int, unit_axis: int, turn: int) -> Tensor:
    """Evenly spread rows with about `elements` elements, copied; the tensor itself where it has no
    more.

    Rows of the outermost axes are left out first, which leaves long stretches of memory to read,
    and never units.

    Args:
        tensor: an output.
        elements: how many are wanted.
        unit_axis: the axis of the units.
        turn: another number chooses other rows.

    Returns:
        A tensor of as many dimensions.

    Example:
        >>> from gradkern.monitor.output_samples import whole_rows
        >>> whole_rows(torch.arange(12.0).view(6, 2), 4, 1, turn=1).tolist()
        [[2.0, 3.0], [8.0, 9.0]]
    """
    if tensor.numel() <= elements:
        return tensor
    for axis in _other_axes(tensor, unit_axis):
        step = min(-(-tensor.numel() // elements), tensor.shape[axis])
        tensor = _every(tensor, axis, step, turn)
    return tensor.clone(memory_format=torch.contiguous_format)


def few_of_each_unit(tensor: Tensor, elements: int, unit_axis: int, turn: int) -> Tensor:
    """About `elements` elements in float, of every unit as many; gathered, for what reads them
    several times.

    The batch is thinned least, then the innermost axes, in which neighbours are read together.
    """
    if tensor.dim() < 2:
        return tensor[:elements].float()
    if tensor.numel() <= elements:
        return tensor.float()
    left = max(elements // tensor.shape[unit_axis], 1)
    inside = tensor.numel() // tensor.shape[unit_axis]
    axes = _other_axes(tensor, unit_axis)
    for axis in axes:
        size = tensor.shape[axis]
        inside //= size  # of a unit's elements those at one place of this axis
        is_batch = axis == axes[0] and len(axes) > 1
        share = round(left**0.7) if is_batch else left // inside
        tensor = _every(tensor, axis, -(-size // min(size, max(share, 1))), turn)
        left = max(left // tensor.shape[axis], 1)
    return tensor.float().contiguous()


def _other_axes(tensor: Tensor, unit_axis: int) -> list[int]:
    """All but the units'; the only one of a vector."""
    return [axis for axis in range(tensor.dim()) if tensor.dim() == 1 or axis != unit_axis]


def _every(tensor: Tensor, axis: int, step: int, turn: int) -> Tensor:
    """Each `step`-th place of an axis; in `step` turns all of them."""
    return tensor[(slice(None),) * axis + (slice(turn % step, None, step),)]
