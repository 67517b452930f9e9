"""A name for what the gradients of a run did."""

from __future__ import annotations

from gradkern.demo.training import Run

# AutoTrainer (Zhang et al., ICSE 2021) calls a gradient vanishing below the first two (its beta_1
# and beta_2) and exploding above the third (beta_3).
VANISHING_RATIO = 1e-3
VANISHING_NORM = 1e-4
EXPLODING_RATIO = 70.0


def diagnose(run: Run) -> str:
    """VANISHING, EXPLODING, CLIPPED (it would have exploded) or HEALTHY."""
    ratio = run.first.first_to_last
    if run.diverged or (ratio > EXPLODING_RATIO and run.workload.max_norm is None):
        return "EXPLODING"
    if ratio > EXPLODING_RATIO:
        return "CLIPPED"
    if ratio < VANISHING_RATIO and run.first.norms[0] < VANISHING_NORM:
        return "VANISHING"
    return "HEALTHY"
