"""Compiles the kernels for the GPUs that are checked, and takes apart what nvcc made."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
BUILD = ROOT / "build" / "cubins"
KEPT = ROOT / "build" / "cuda" / "kept"  # by `make cuda`

# As CMake compiles the library (cmake/GradkernCuda.cmake). -lineinfo changes no instruction.
_NVCC = ("nvcc", "-std=c++17", "-O3", "-DNDEBUG", "--expt-relaxed-constexpr", "-lineinfo")


class MissingToolError(RuntimeError):
    """A tool of the CUDA toolkit that is neither on PATH nor among the environment's packages."""


@dataclasses.dataclass(frozen=True)
class Module:
    """One source file, compiled for one architecture.

    Args:
        ptx: what nvcc's front end made of it.
        sass: what nvdisasm prints of what ptxas made of that, with lines of the PTX.
        usage: registers, stack, shared and local bytes ("REG", "STACK", ...) of each kernel.
    """

    ptx: str
    sass: str
    usage: dict[str, dict[str, int]]


def tool(name: str) -> str:
    """The path of cuobjdump or nvdisasm: the environment's package, or the toolkit's."""
    packaged = Path(sysconfig.get_path("purelib"), "nvidia", "cu13", "bin")
    found = shutil.which(name, path=packaged) or shutil.which(name)
    if found is None:
        raise MissingToolError(f"{name} is missing: pip install nvidia-cuda-{name}")
    return found


def modules(
    archs: Sequence[str], csrc: Path = CSRC, folder: Path = BUILD
) -> dict[str, list[Module]]:
    """The CUDA sources compiled for each of the architectures ("sm_80"), if they have changed."""
    sources = sorted((csrc / "cuda").glob("*.cu"))
    jobs = [(arch, source) for arch in archs for source in sources]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = pool.map(lambda job: compile_module(job[1], job[0], csrc, folder), jobs)
        found: dict[str, list[Module]] = {arch: [] for arch in archs}
        for (arch, _), module in zip(jobs, compiled, strict=True):
            found[arch].append(module)
    return found


def compile_module(source: Path, arch: str, include: Path, folder: Path) -> Module:
    """Compiles a source file for an architecture, unless that or `make cuda` has been done.

    Raises:
        RuntimeError: with the compiler's output, if it does not compile.
    """
    virtual = arch.replace("sm_", "compute_")
    newest = max(file.stat().st_mtime for file in [source, *include.rglob("*.*h")])

    def is_current(cubin: Path) -> bool:
        return cubin.exists() and cubin.stat().st_mtime >= newest

    ptx, cubin = (KEPT / f"{source.stem}.{virtual}.{suffix}" for suffix in ("ptx", "cubin"))
    if include != CSRC or not is_current(cubin):
        ptx, cubin = (folder / arch / f"{source.stem}.{suffix}" for suffix in ("ptx", "cubin"))
    if not is_current(cubin):
        ptx.parent.mkdir(parents=True, exist_ok=True)
        _output(*_NVCC, f"-I{include}", f"-arch={virtual}", "-ptx", source, "-o", ptx)
        _output(*_NVCC, f"-arch={arch}", "-cubin", ptx, "-o", cubin)
    return Module(
        ptx.read_text(),
        _output(tool("nvdisasm"), "--print-line-info-ptx", "--print-code", cubin),
        _resource_usage(_output(tool("cuobjdump"), "--dump-resource-usage", cubin)),
    )


def _resource_usage(text: str) -> dict[str, dict[str, int]]:
    return {
        name: {key: int(n) for key, n in re.findall(r"([A-Z]+):(\d+)", counts)}
        for name, counts in re.findall(r"Function (\S+):\s*\n\s*(.+)", text)
    }


def demangle(names: list[str]) -> dict[str, str]:
    """The C++ names."""
    output = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout
    return dict(zip(names, output.splitlines(), strict=True))


def short_name(demangled: str) -> str:
    """`f<A, B>` of `void gradkern::cuda::f<gradkern::A, B>(int)`."""
    depth, start, end = 0, 0, len(demangled)
    for i, character in enumerate(demangled):
        depth += {"<": 1, ">": -1}.get(character, 0)
        if depth == 0 and character == "(":  # of the parameters
            end = i
            break
        if depth == 0 and character == " ":  # behind the type of the result
            start = i + 1
    return re.sub(r"\b\w+::", "", demangled[start:end]).replace("> >", ">>")


def _output(*command: str | Path) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{result.stderr}")
    return result.stdout
