"""How work on channels is cut into blocks, on sizes far beyond what any machine holds."""

from __future__ import annotations

import pytest
from launch_plans import (
    BFLOAT16,
    ELEMENT_BYTES,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    batch_norm_is_held,
    channel_plan,
    default_limits,
)

REALS = (FLOAT32, FLOAT64, BFLOAT16, FLOAT16)
SIZES = [
    (1, 1, 1),
    (1, 1, 1 << 40),
    (1 << 40, 1, 1),
    (1, 1 << 40, 1),
    (1 << 20, 1 << 10, 1 << 10),
    (64, 256, 56 * 56),
    (64, 2048, 49),
    (8, 512, 2),
    (128, 2048, 1),
    (4096, 3, 1),
    ((1 << 31) + 1, 33, 1),
    (3, (1 << 31) + 1, 7),
]
SHARED_BYTES = 40 << 10  # that a block holds a channel in
MAX_ACROSS = 32


def parts(n: int, size: int) -> int:
    return -(-n // size)


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_tiles_and_chunks_take_up_everything_once(sizes: tuple[int, int, int], dtype: int) -> None:
    outer, channels, inner = sizes
    vector = 16 // ELEMENT_BYTES[dtype]
    plan = channel_plan(sizes, dtype)
    if inner > 1:
        assert (plan.tiles, plan.across) == (channels, 1)
        each, everything = vector, outer * parts(inner, vector)
    else:
        assert plan.across in (1, 2, 4, 8, 16, MAX_ACROSS)
        each, everything = plan.across * vector, outer
        assert (plan.tiles - 1) * each < channels <= plan.tiles * each
        assert plan.across == 1 or plan.across // 2 * vector < channels
    assert plan.chunk > 0
    assert (plan.chunks - 1) * plan.chunk < everything <= plan.chunks * plan.chunk
    assert plan.chunk * each <= max(default_limits().chunk, each)
    assert plan.units == plan.tiles * plan.chunks


@pytest.mark.parametrize("fields", [1, 3])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_workspace_has_a_partial_result_for_every_chunk_and_channel(
    sizes: tuple[int, int, int], fields: int
) -> None:
    plan = channel_plan(sizes, fields=fields)
    if plan.chunks == 1:
        assert plan.workspace == 0
    else:
        assert plan.counters == plan.chunks * sizes[1] * fields * 8
        assert plan.workspace == plan.counters + plan.tiles * 4


def test_chunks_get_shorter_until_a_gpu_is_busy_and_no_shorter() -> None:
    assert channel_plan((64, 256, 64 * 64)).units >= 1024
    few = channel_plan((64, 2, 28 * 28))
    assert few.chunk * 4 == 4096, "merging shorter chunks would take longer than reading them"


def test_blocks_do_not_decide_where_chunks_end() -> None:
    """The bits of the sums follow from the sizes, whatever the grid."""
    narrow = default_limits()
    narrow.blocks = 7
    for sizes in SIZES:
        assert channel_plan(sizes, limits=narrow) == channel_plan(sizes)


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("inputs", [1, 3])
def test_a_block_holds_a_channel_that_fits_shared_memory(dtype: int, inputs: int) -> None:
    vector = 16 // ELEMENT_BYTES[dtype]
    vectors = SHARED_BYTES // 16 // inputs
    backward = inputs == 3
    assert batch_norm_is_held((1, 5, vectors * vector), dtype, backward=backward)
    assert not batch_norm_is_held((1, 5, vectors * vector + 1), dtype, backward=backward)
    # A vector at the end of each plane counts as a whole one.
    planes = vectors // 2
    assert batch_norm_is_held((planes, 5, vector + 1), dtype, backward=backward)
    assert not batch_norm_is_held((planes + 1, 5, vector + 1), dtype, backward=backward)
    assert not batch_norm_is_held((4, 5, 1), dtype, backward=backward), "columns share vectors"
