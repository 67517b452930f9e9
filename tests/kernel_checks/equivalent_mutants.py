"""Mutants that no test can tell from the original, and why.

A mutant is named by its file, what is changed, and its line of code; `mutation.py` complains about
an entry that no mutant has any more, and about one that is caught after all.
"""

from __future__ import annotations

_LONG_ROW = "a vector that begins where the row ends is all padding, which is not stored"

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "cuda/softmax.cuh",
        "< to <=",
        "for (int k = 0; k < kSize; k++) {",
    ): "this part of store_some has a count below kSize, and stores no element from the count on",
    (
        "cuda/softmax.cuh",
        "< to <=",
        "for (int v = 0; v < kHeld; v++) {",
    ): "the launcher takes this kernel for rows of at most kHeld rounds; the next one is skipped",
    (
        "cuda/softmax.cuh",
        "< to <=",
        "for (int64_t i = begin; i < p.size; i += kThreads * kSize) {",
    ): _LONG_ROW,
    (
        "cuda/softmax_launch.cuh",
        "< to <=",
        "while (threads < n && threads < 32) threads *= 2;",
    ): "any power of two up to kThreads gives right sums; which is quickest no test can say",
}
