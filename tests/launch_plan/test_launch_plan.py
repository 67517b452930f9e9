"""Launch planning, and the device's arithmetic on its tables, far beyond what any machine holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from launch_plans import (
    COMPLEX128,
    ELEMENT_BYTES,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    Array,
    Limits,
    Plan,
    default_limits,
    find_pieces,
    make_spans,
    workspace_layout,
)

# What CUDA allows (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
MAX_GRID = 2**31 - 1
MAX_PARAMETER_BYTES = 32764
# What a kernel takes beside its table (csrc/cuda/launch_plan.h).
OTHER_PARAMETER_BYTES = 252

LAUNCH_BYTES = 40  # PlannedLaunch
FIELDS = 7  # of the largest partial result


class Coverage:
    """Checks that blocks, told one after the other, take up every element once and in order."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.tensor = -1  # of the last block
        self.end = 0  # where it ended

    def add(self, launch: int, pieces: Array) -> None:
        """The pieces of consecutive blocks of a launch."""
        spans = self.plan.spans
        tensor = pieces["tensor"] + self.plan.launches[launch]["first_tensor"]
        span = spans[tensor]
        element_bytes = np.array([ELEMENT_BYTES[d] for d in range(6)])[span["dtype"]]
        begin, misplaced = np.divmod(
            (pieces["data"] - span["data"]).astype(np.int64), element_bytes
        )
        assert not misplaced.any()
        assert (pieces["dtype"] == span["dtype"]).all()
        assert (pieces["numel"] == span["numel"]).all()

        # Either the same tensor goes on, or it is done and the next one begins.
        last_tensor = np.concatenate([[self.tensor], tensor[:-1]])
        last_end = np.concatenate([[self.end], (begin + pieces["size"])[:-1]])
        goes_on = tensor == last_tensor
        assert (begin[goes_on] == last_end[goes_on]).all()
        assert (last_end[goes_on] < span["numel"][goes_on]).all()
        assert (tensor[~goes_on] == last_tensor[~goes_on] + 1).all()
        assert (begin[~goes_on] == 0).all()
        done = last_tensor[~goes_on]
        assert (last_end[~goes_on] == np.where(done < 0, 0, spans["numel"][done])).all()

        if self.plan.by_segment:
            assert (pieces["size"] == span["segment"]).all()
            assert (pieces["chunks"] == 1).all()
            assert (pieces["chunk"] == 0).all()
        else:
            chunk = self.plan.chunk
            assert (pieces["chunk"] * chunk == begin).all()
            assert (pieces["chunks"] == np.maximum(1, -(-span["numel"] // chunk))).all()
            assert (pieces["size"] <= chunk).all()
        self.tensor, self.end = int(tensor[-1]), int(begin[-1] + pieces["size"][-1])

    def finish(self) -> None:
        """Nothing is left."""
        assert self.tensor == len(self.plan.spans) - 1
        assert self.end == self.plan.spans[-1]["numel"]


def check_launches(plan: Plan) -> None:
    """What holds for the launches of every plan."""
    launches = plan.launches
    assert (launches["tensors"] >= 1).all()
    assert (launches["tensors"] <= plan.limits.tensors).all()
    assert (launches["tensors"] * 32 <= MAX_PARAMETER_BYTES - OTHER_PARAMETER_BYTES).all()
    assert (launches["blocks"] >= 1).all()
    assert (launches["blocks"] <= min(plan.limits.blocks, MAX_GRID)).all()
    assert launches["blocks"].sum() == plan.blocks
    first_block = np.concatenate([[0], np.cumsum(launches["blocks"])[:-1]])
    assert (launches["first_block"] == first_block).all()
    # No launch ends before it has to.
    full = (launches["tensors"] == plan.limits.tensors) | (launches["blocks"] == plan.limits.blocks)
    assert full[:-1].all()
    # A vector that doubles as it grows: nothing that depends on elements or blocks.
    assert 0 < plan.allocated <= 4 * LAUNCH_BYTES * len(launches)


def check_all_blocks(plan: Plan, batch: int = 1 << 18) -> None:
    """Every block of every launch."""
    check_launches(plan)
    coverage = Coverage(plan)
    for i, launch in enumerate(plan.launches):
        for first in range(0, int(launch["blocks"]), batch):
            coverage.add(i, plan.pieces(i, first, min(batch, int(launch["blocks"]) - first)))
    coverage.finish()


def check_some_blocks(plan: Plan, launch: int, first_block: int, blocks: int = 1000) -> None:
    """Consecutive blocks of a plan of one tensor, as if those before had been right."""
    unit = int(plan.launches[launch]["first_block"]) + first_block
    coverage = Coverage(plan)
    if unit > 0:
        size = int(plan.spans[0]["segment"]) if plan.by_segment else plan.chunk
        coverage.tensor, coverage.end = 0, unit * size
    coverage.add(launch, plan.pieces(launch, first_block, blocks))


class TestDefaultLimits:
    def test_are_what_cuda_allows(self) -> None:
        limits = default_limits()
        assert limits.blocks == MAX_GRID
        assert limits.tensors * 32 + OTHER_PARAMETER_BYTES == MAX_PARAMETER_BYTES
        assert limits.chunk % 8 == 0  # a chunk of any type begins at 16 bytes if its tensor does

    @pytest.mark.parametrize("tensors", [1, 999, 1000, 1001, 1016, 1017, 2032, 2033, 100_000])
    def test_launches_for_many_tensors(self, tensors: int) -> None:
        plan = Plan(make_spans([256] * tensors))
        check_all_blocks(plan)
        assert len(plan.launches) == math.ceil(tensors / 1016)
        # With the memset of the counters before, and the clip after, for which all the tensors are
        # in one table.
        assert len(plan.launches) + 2 <= math.ceil(tensors / 1000) + 2

    def test_no_tensors(self) -> None:
        plan = Plan(make_spans([]))
        assert len(plan.launches) == 0
        assert plan.blocks == 0

    def test_gpt2_small(self) -> None:
        sizes = [50257 * 768, 1024 * 768]
        sizes += 12 * [768, 768, 768 * 2304, 2304, 768 * 768, 768, 768, 768, 768 * 3072, 3072]
        sizes += 12 * [3072 * 768, 768]
        sizes += [768, 768]
        plan = Plan(make_spans(sizes))
        check_all_blocks(plan)
        assert sum(sizes) == 124_439_808
        assert len(plan.launches) == 1


class TestHugeTensors:
    def test_one_of_2_to_the_40(self) -> None:
        plan = Plan(make_spans([2**40]))
        check_launches(plan)
        assert plan.blocks == 2**25
        assert len(plan.launches) == 1
        for first in (0, 12_345_678, 2**24 - 500, 2**25 - 1000):
            check_some_blocks(plan, 0, first)
        assert plan.pieces(0, 2**25 - 1)[0]["size"] == plan.chunk
        assert plan.allocated <= 4 * LAUNCH_BYTES

    def test_a_million_chunks(self) -> None:
        plan = Plan(make_spans([1_000_000 * 32768 - 1]))
        check_all_blocks(plan)
        assert plan.blocks == 1_000_000
        assert plan.pieces(0, 999_999)[0]["size"] == 32767

    def test_a_million_chunks_in_tensors_of_all_sizes(self) -> None:
        generator = np.random.default_rng(0)
        chunks = generator.geometric(1 / 60, size=20_000)
        assert chunks.sum() > 1_000_000
        sizes = chunks * 32768 - generator.integers(0, 32768, size=len(chunks))
        sizes[::97] = 0
        check_all_blocks(Plan(make_spans(sizes.tolist(), FLOAT16)))

    def test_more_chunks_than_a_grid_has_blocks(self) -> None:
        plan = Plan(make_spans([2**47], FLOAT16))
        check_launches(plan)
        assert plan.launches["blocks"].tolist() == [MAX_GRID, MAX_GRID, 2]
        assert plan.launches["first_unit"].tolist() == [0, MAX_GRID, 2 * MAX_GRID]
        for launch in (0, 1):
            for first in (0, 2**30, MAX_GRID - 1000):
                check_some_blocks(plan, launch, first)
        check_some_blocks(plan, 2, 0, 2)
        last = plan.pieces(2, 1, 1)[0]
        assert last["chunk"] == 2**32 - 1
        assert last["data"] == plan.spans[0]["data"] + 2 * (2**47 - 32768)

    def test_the_largest_sizes_there_are(self) -> None:
        largest = 2**63 - 1
        plan = Plan(make_spans([largest]))
        check_launches(plan)
        assert plan.blocks == 2**48
        assert len(plan.launches) == math.ceil(2**48 / MAX_GRID)
        assert Plan(make_spans([largest, 1])).blocks == 2**48 + 1

    @pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64, COMPLEX128])
    def test_small_ones_beside_huge_ones(self, dtype: int) -> None:
        # Units, blocks and bytes of the huge ones must not leak into those behind them.
        sizes = [5, 2**42, 0, 32769, 1]
        plan = Plan(make_spans(sizes, dtype))
        check_launches(plan)
        ends = plan.blocks - 5
        coverage = Coverage(plan)
        coverage.tensor, coverage.end = 1, (2**27 - 1) * 32768
        coverage.add(0, plan.pieces(0, ends, 5))
        coverage.finish()


class TestUnits:
    def test_every_unit_has_a_block(self) -> None:
        plan = Plan(
            make_spans([50257 * 768, 768, 0, 2304 * 768, 1], segments=[768, 768, 0, 768, 1])
        )
        assert plan.by_segment
        assert plan.blocks == 50257 + 1 + 1 + 2304 + 1
        check_all_blocks(plan)

    def test_a_unit_of_2_to_the_40(self) -> None:
        plan = Plan(make_spans([3 * 2**40, 2**41], segments=[2**40, 2**41]))
        assert plan.blocks == 4
        check_all_blocks(plan)

    def test_more_units_than_a_grid_has_blocks(self) -> None:
        plan = Plan(make_spans([3 * (2**31 + 5)], FLOAT64, segments=[3]))
        check_launches(plan)
        assert plan.launches["blocks"].tolist() == [MAX_GRID, 6]
        check_some_blocks(plan, 0, MAX_GRID - 1000)
        check_some_blocks(plan, 1, 0, 6)
        last = plan.pieces(1, 5)[0]
        assert last["data"] - plan.spans[0]["data"] == 8 * 3 * (2**31 + 4)

    def test_many_tensors(self) -> None:
        generator = np.random.default_rng(1)
        segments = generator.integers(1, 50, size=5000)
        units = generator.integers(1, 30, size=5000)
        check_all_blocks(Plan(make_spans((segments * units).tolist(), segments=segments.tolist())))


class TestTinyLimits:
    @pytest.mark.parametrize("seed", range(150))
    def test_any_plan_covers_everything_once(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        tensors = int(generator.integers(1, 40))
        limits = Limits(
            chunk=8 * int(generator.integers(1, 9)),
            tensors=int(generator.integers(1, 8)),
            blocks=int(generator.integers(1, 20)),
        )
        sizes = generator.integers(0, 400, size=tensors)
        sizes[generator.random(tensors) < 0.2] = 0
        segments = None
        if seed % 3 == 0:
            units = generator.integers(1, 12, size=tensors)
            segments = sizes
            sizes = sizes * units
            segments = segments.tolist()
        dtype = int(generator.integers(0, 6))
        check_all_blocks(Plan(make_spans(sizes.tolist(), dtype, segments), limits), batch=7)

    def test_one_tensor_over_many_launches(self) -> None:
        plan = Plan(make_spans([3, 1000, 3]), Limits(chunk=8, tensors=1016, blocks=10))
        check_all_blocks(plan)
        assert plan.launches["first_tensor"].tolist() == [0] + 12 * [1]
        assert plan.launches["first_unit"].tolist() == [0, *range(9, 125, 10)]
        assert plan.launches["blocks"].tolist() == 12 * [10] + [7]

    def test_one_block_and_one_tensor_in_a_launch(self) -> None:
        plan = Plan(make_spans([17, 0, 8]), Limits(chunk=8, tensors=1, blocks=1))
        check_all_blocks(plan)
        assert len(plan.launches) == 5


class TestOneTableForAll:
    """A clip that follows a reduction has one table, in which blocks are counted over all."""

    def test_100_000_tensors(self) -> None:
        generator = np.random.default_rng(2)
        sizes = generator.integers(0, 100_000, size=100_000)
        plan = Plan(make_spans(sizes.tolist()))
        tables = [plan.table(i) for i in range(len(plan.launches))]
        for launch, table in zip(plan.launches, tables, strict=True):
            table["first_block"] += np.uint32(launch["first_block"])
        one_launch = np.concatenate(tables)
        assert len(one_launch) == 100_000

        pieces = find_pieces(one_launch, plan.chunk, 0, 0, plan.blocks)
        by_launch = np.concatenate([plan.pieces(i) for i in range(len(plan.launches))])
        for field in ("data", "size", "dtype"):
            assert (pieces[field] == by_launch[field]).all()


class TestWorkspace:
    @pytest.mark.parametrize(
        ("tensors", "blocks"), [(1, 1), (148, 3900), (100_000, 100_000), (1, 2**25), (7, 2**40)]
    )
    def test_layout(self, tensors: int, blocks: int) -> None:
        layout = workspace_layout(tensors, blocks, FIELDS)
        assert layout["table"] == 0
        assert layout["partials"] == 32 * tensors
        assert layout["counters"] == layout["partials"] + 8 * FIELDS * blocks
        assert layout["bytes"] == layout["counters"] + 4 * (tensors + 1)

    def test_is_a_thousandth_of_what_it_serves(self) -> None:
        for exponent in (20, 30, 40):
            plan = Plan(make_spans([2**exponent], FLOAT16))
            used = workspace_layout(1, plan.blocks, FIELDS)["bytes"]
            assert used < 2 * 2**exponent / 1000
