"""Mutants that no test can tell from the original, and why.

A mutant is named by its file, what is changed, and its line of code; `mutation.py` complains about
an entry that no mutant has any more, and about one that is caught after all.
"""

from __future__ import annotations

_NOTHING_LEFT = "a block that begins at the end has nothing left to do"
_LONG_ROW = "a vector that begins where the row ends is all padding, which is not stored"

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "cuda/elements.cuh",
        "< to <=",
        "for (int e = 0; e < kSize; e++) {",
    ): "this part of store_some has a count below kSize, and stores no element from the count on",
    (
        "cuda/gated.cuh",
        "< to <=",
        "for (int64_t begin = blockIdx.x * p.chunk; begin < all; begin += gridDim.x * p.chunk) {",
    ): _NOTHING_LEFT,
    (
        "cuda/rrelu.cuh",
        "< to <=",
        "for (int64_t chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {",
    ): _NOTHING_LEFT,
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
}
