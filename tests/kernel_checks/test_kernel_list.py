"""The list of kernels and the sources agree, so that no kernel goes without its checks."""

from __future__ import annotations

import re

import case_table
import kernels
import pytest
from mutants import find_mutants
from sanitizers import CSRC, SOURCE

_CUDA_SOURCES = sorted((CSRC / "cuda").glob("*.cu*"))


def test_every_kernel_in_the_sources_is_listed() -> None:
    defined = {
        name
        for file in _CUDA_SOURCES
        for name in re.findall(
            r"__global__[^;{]*?\b(\w+)\(\s*(?:const|\w+[\s*&]+\w)", file.read_text()
        )
        if name != "__launch_bounds__"
    }
    assert defined == {kernel.symbol.partition("<")[0] for kernel in kernels.KERNELS}


def test_every_case_is_a_function_and_every_function_a_case() -> None:
    functions = [
        name
        for file in sorted((SOURCE / "sanitized").glob("*.cpp"))
        for name in re.findall(
            r"(?<!>\n)^void (\w+)\(const Setting&(?: s)?\)", file.read_text(), re.M
        )
    ]
    cases = [kernel.case for kernel in kernels.KERNELS] + list(kernels.FUNCTION_CASES)
    assert sorted(functions) == sorted(cases)


def test_the_table_has_the_dtypes_of_each_kernel() -> None:
    table = case_table.table()
    assert '{"norms_of_order_2", &norms_of_order_2, 0xf},' in table
    assert '{"norms_of_order_1", &norms_of_order_1, 0x3f},' in table
    assert f"kCaseCount = {len(kernels.KERNELS) + len(kernels.FUNCTION_CASES)};" in table


def test_dtypes_are_those_of_the_backend() -> None:
    enum = re.search(
        r"enum class DType : int32_t \{(.*?)\}", (CSRC / "backend.h").read_text(), re.S
    )
    assert enum is not None
    names = re.findall(r"k(\w+),", enum.group(1))
    assert [name.upper().removesuffix("MODULUS") for name in names] == [
        d.name for d in kernels.DType
    ]


@pytest.mark.parametrize("function", ["__syncthreads", "__syncwarp", "__threadfence"])
def test_every_synchronisation_has_a_mutant(function: str) -> None:
    count = sum(len(re.findall(rf"\b{function}\w*\(", file.read_text())) for file in _CUDA_SOURCES)
    found = [m for m in find_mutants(CSRC) if m.is_synchronisation and function in m.code]
    assert len(found) == count
