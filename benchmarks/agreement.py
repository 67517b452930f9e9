"""Both sides of a row must do the same work: their results are compared before they are timed."""

from __future__ import annotations

import numpy
import torch

from benchmarks.rows import Data, Sides

# Not a test of accuracy (the test suite has those); native's own error is what needs the room. Its
# float32 norm of the 38.6M normal values of GPT-2's embedding is off by 2.7e-3 with AVX2, and its
# bfloat16 total is a rounded norm of rounded norms.
TOLERANCE = {torch.float32: 1e-2, torch.float64: 1e-9, torch.float16: 2e-2, torch.bfloat16: 2e-2}


def largest_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest absolute difference, relative to the largest value of `theirs`; NaN propagates.

    Raises:
        ValueError: The shapes differ.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"ours has shape {tuple(ours.shape)}, theirs {tuple(theirs.shape)}")
    ours, theirs = ours.double().cpu(), theirs.double().cpu()
    if torch.equal(ours, theirs):
        return 0.0
    return float((ours - theirs).abs().max() / theirs.abs().max())


def check(title: str, sides: Sides, data: Data, dtype: torch.dtype) -> float:
    """Runs both sides once, each from the same state.

    Args:
        title: the row, for the message.
        sides: the two calls.
        data: what they work on.
        dtype: storage type of the data.

    Returns:
        The largest relative difference between the results and between the data left behind.

    Raises:
        RuntimeError: They differ by more than native's own error explains.
    """
    results = []
    left_behind = []
    for call in (sides.ours, sides.theirs):
        if sides.reset is not None:
            sides.reset()
        results.append(call())
        left_behind.append(data.sample())
    pairs = [(left_behind[0], left_behind[1])]
    ours, theirs = results
    if sides.comparable is not None:
        pairs.append(sides.comparable(ours, theirs))
    elif isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        pairs.append((ours, theirs))
    # Not Python's max, which would lose a NaN.
    difference = float(numpy.max([largest_difference(*pair) for pair in pairs]))
    if not difference <= TOLERANCE[dtype]:
        raise RuntimeError(
            f"{title}: both sides must do the same work, but their results differ by "
            f"{difference:.2g} (at most {TOLERANCE[dtype]:g} is expected of {dtype})"
        )
    return difference
