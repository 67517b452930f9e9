"""What the built libraries import and contain."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gradkern
from gradkern._load import LIBRARY_DIRECTORY

NM = shutil.which("nm")
needs_nm = pytest.mark.skipif(NM is None, reason="nm (binutils) is not installed")


def symbols(library: Path, *options: str) -> list[tuple[str, str]]:
    assert NM is not None
    listing = subprocess.run([NM, *options, library], capture_output=True, text=True, check=True)
    return [
        (kind, name)
        for kind, name in re.findall(r"^\s*[0-9a-f]* ([A-Za-z]) (\S+)$", listing.stdout, re.M)
    ]


@needs_nm
@pytest.mark.parametrize("name", ["libgradkern_ops.so", "_core"])
def test_no_cpp_symbol_of_torch_is_imported(name: str) -> None:
    """The stable ABI is C: a C++ symbol of torch would tie the build to one release."""
    library = next(LIBRARY_DIRECTORY.glob(f"{name}*"))
    undefined = [symbol for kind, symbol in symbols(library, "-D") if kind == "U"]
    assert undefined
    mangled = [s for s in undefined if s.startswith("_Z")]
    torch_like = [s for s in mangled if re.search(r"(2at|3c10|5torch|6caffe2)", s)]
    assert torch_like == []
    if name == "libgradkern_ops.so":
        assert [s for s in undefined if s.startswith(("aoti_torch_", "torch_"))]
        assert not [s for s in undefined if s.startswith(("Py", "_Py"))], "bound to one Python"


@needs_nm
def test_instruction_sets_share_no_inline_function() -> None:
    """Of two definitions of one inline function the linker keeps the first: possibly AVX-512 code.

    Each instruction set's own code lies in a namespace of its own; of what lies elsewhere, nothing
    may be left after optimisation.
    """
    library = LIBRARY_DIRECTORY / "libgradkern_ops.so"
    names = {symbol for _, symbol in symbols(library)}
    vectorised = [name for name in names if "xsimd" in name]
    assert [n for n in vectorised if not re.search(r"sse42|avx2|avx512|neon", n)] == []


def test_import_takes_no_second_openmp() -> None:
    """Two OpenMP runtimes in one process fight for the cores."""
    code = (
        "import gradkern, re;"
        "maps = open('/proc/self/maps').read();"
        "print(len(set(re.findall(r'\\S*lib(?:gomp|iomp5|omp)[^/\\s]*', maps))))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "1"


def test_build_info_says_what_runs() -> None:
    info = gradkern.build_info()
    assert info["version"] == gradkern.__version__
    assert info["cpu_isa"] in info["cpu_isas"]
    assert info["cuda"]["loaded"] or info["cuda"]["reason"]
