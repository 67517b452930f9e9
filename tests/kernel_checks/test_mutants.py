"""Where mutants are found, and what they look like."""

from __future__ import annotations

import pytest
from mutants import mutants_of, with_switches


def mutated(text: str) -> str:
    return with_switches(text, list(enumerate(mutants_of("cuda/kernel.cuh", text))))


@pytest.mark.parametrize(
    "call",
    [
        *("__syncthreads()", "__syncwarp()", "__syncwarp(mask(1))"),
        *("__threadfence()", "__threadfence_block()", "__threadfence_system()"),
    ],
)
def test_synchronisation_is_deleted(call: str) -> None:
    switch = f"(mutant_is_alive(0) ? void() : {call})"
    assert mutated(f"if (a) {call};  // why") == f"if (a) {switch};  // why"


def test_votes_are_not_taken() -> None:
    vote = "__syncthreads_or(f(x) > 0)"
    switch = f"(mutant_is_alive(0) ? (f(x) > 0) : {vote})"
    assert mutated(f"if ({vote}) return;") == f"if ({switch}) return;"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (
            "for (int i = 0; i < n; i++) f(i);",
            "for (int i = 0; i < mutant_is_alive(0) + n; i++) f(i);",
        ),
        (
            "for (; i + g(2) < n && i < m; i += a < b) f(i);",
            "for (; i + g(2) < mutant_is_alive(0) + n && i < mutant_is_alive(1) + m; "
            "i += a < b) f(i);",
        ),
        ("while (spins < limit) f();", "while (spins < mutant_is_alive(0) + limit) f();"),
        (
            "for (int64_t i = 0;\n     i < n;\n     i++) {}",
            "for (int64_t i = 0;\n     i < mutant_is_alive(0) + n;\n     i++) {}",
        ),
        (
            "bool has_next() const { return i + step < n; }",
            "bool has_next() const { return i + step < mutant_is_alive(0) + n; }",
        ),
    ],
)
def test_bounds_of_loops_are_passed_by_one(text: str, wrong: str) -> None:
    assert mutated(text) == wrong


@pytest.mark.parametrize(
    "text",
    [
        "if (i < n) f(i);",  # bounds no loop
        "bool is_less(int i) const { return i < n; }",
        "for (const auto& x : list) f(x < 1);",
        "for (int i = size<T>(); i > 0; i /= 2) f(i);",
        "// __syncthreads(); for (; i < n;) {}",
        'fail("for (; i < n;) __syncthreads();");',
        "__syncthreads_helper();",
    ],
)
def test_nothing_else_is_touched(text: str) -> None:
    assert mutated(text) == text


def test_a_mutant_says_where_it_is() -> None:
    (mutant,) = mutants_of("cuda/a.cuh", "int a;\n  __syncthreads();  // The others.\n")
    assert str(mutant) == "cuda/a.cuh:2: deleted: __syncthreads();"
    assert mutant.is_synchronisation
