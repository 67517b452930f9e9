"""Writes the C++ table of the sanitizer executables' cases, from kernels.py. CMake calls it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from kernels import FUNCTION_CASES, KERNELS, DType


def table() -> str:
    """The source of the table."""
    cases = [(name, [DType.FLOAT32]) for name in FUNCTION_CASES]
    cases += [(kernel.case, kernel.dtypes) for kernel in KERNELS]
    declarations = "".join(f"void {name}(const Setting&);\n" for name, _ in cases)
    rows = "".join(f'    {{"{name}", &{name}, {_mask(dtypes):#x}}},\n' for name, dtypes in cases)
    return (
        '#include "case.h"\n\n'
        "namespace gradkern::checks {\n"
        f"{declarations}"
        f"const Case kCases[] = {{\n{rows}}};\n"
        f"const int kCaseCount = {len(cases)};\n"
        "}  // namespace gradkern::checks\n"
    )


def _mask(dtypes: Iterable[DType]) -> int:
    return sum(1 << dtype for dtype in dtypes)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(table())
