"""What the compiled kernels are, and what they must not be."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator, Sequence
from pathlib import Path

import cubins
import ptx
import sass
from kernels import CPP_TYPES, KERNELS, DType, Kernel
from occupancy import GPUS, Gpu, blocks_per_sm
from source_lines import claimed_blocks, dtype_of_template, may_be_scalar


@dataclasses.dataclass(frozen=True)
class Usage:
    """What a compiled kernel takes of an SM.

    Args:
        claimed_blocks: what the comment above its definition promises, if it does.
    """

    gpu: Gpu
    threads: int
    registers: int
    shared_bytes: int
    local_bytes: int
    claimed_blocks: int | None

    @classmethod
    def of(cls, gpu: Gpu, entry: ptx.Entry, counts: dict[str, int], claimed: int | None) -> Usage:
        """From what cuobjdump counts."""
        # From sm_90 on the count includes what the system keeps of each block's shared memory.
        kept = 1024 if int(gpu.arch.removeprefix("sm_")) >= 90 and counts["SHARED"] else 0
        local_bytes = counts["STACK"] + counts["LOCAL"]
        shared_bytes = counts["SHARED"] - kept
        return cls(gpu, entry.threads, counts["REG"], shared_bytes, local_bytes, claimed)

    @property
    def blocks(self) -> int:
        """Blocks that an SM has room for."""
        return blocks_per_sm(self.gpu, self.threads, self.registers, self.shared_bytes)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A kernel of the list, compiled for a GPU.

    Args:
        symbol: which instantiation, of an entry for several.
    """

    kernel: Kernel
    symbol: str
    usage: Usage
    entry: ptx.Entry
    code: sass.Function

    def __str__(self) -> str:
        return f"{self.symbol} on {self.usage.gpu.arch}"


class UnlistedError(RuntimeError):
    """What was compiled and the list of kernels differ."""


def read(
    modules: dict[str, list[cubins.Module]],
    kernels: Sequence[Kernel] = KERNELS,
    csrc: Path = cubins.CSRC,
) -> list[Compiled]:
    """The compiled kernels, in the order of the list, each for all GPUs.

    Args:
        modules: by architecture.
        csrc: the sources, in which kernels' comments claim an occupancy.

    Raises:
        UnlistedError: if a kernel is not in the list, or one that is has not been compiled.
    """
    found: dict[tuple[Kernel, Gpu], list[Compiled]] = {}
    for gpu in GPUS:
        for module in modules[gpu.arch]:
            entries = {entry.name: entry for entry in ptx.parse(module.ptx)}
            code = {function.name: function for function in sass.parse(module.sass)}
            for mangled, long in cubins.demangle(list(entries)).items():
                symbol = cubins.short_name(long)
                kernel = next((k for k in kernels if fnmatch.fnmatchcase(symbol, k.symbol)), None)
                if kernel is None:
                    raise UnlistedError(f"{symbol} is in no entry of kernels.py")
                claimed = claimed_blocks(csrc, symbol)
                usage = Usage.of(gpu, entries[mangled], module.usage[mangled], claimed)
                compiled = Compiled(kernel, symbol, usage, entries[mangled], code[mangled])
                found.setdefault((kernel, gpu), []).append(compiled)
    missing = [kernel.symbol for kernel in kernels if (kernel, GPUS[0]) not in found]
    if missing:
        raise UnlistedError(f"kernels.py lists what is in no source file: {', '.join(missing)}")
    return [each for kernel in kernels for gpu in GPUS for each in found[kernel, gpu]]


def violations(compiled: Compiled) -> Iterator[str]:
    """What is wrong with a compiled kernel."""
    yield from usage_violations(compiled.usage)
    # A kernel that is instantiated for one dtype streams that one.
    only = dtype_of_template(compiled.symbol)
    dtypes = compiled.kernel.dtypes if only is None else (only,)
    yield from code_violations(compiled.kernel, dtypes, compiled.entry, compiled.code)
    yield from ptx_violations(compiled.kernel, dtypes, compiled.entry)


def usage_violations(usage: Usage) -> Iterator[str]:
    """Local memory, and more registers or shared memory than the claimed occupancy leaves."""
    if usage.local_bytes:
        yield f"{usage.local_bytes} bytes of local memory"
    if not usage.claimed_blocks:
        yield "the comment above it claims no occupancy (`Occupancy: 4 blocks on an SM`)"
    elif usage.blocks < usage.claimed_blocks:
        yield (
            f"room for {usage.blocks} blocks on an SM, {usage.claimed_blocks} claimed: "
            f"{usage.registers} registers, {usage.shared_bytes} bytes of shared memory"
        )


def code_violations(
    kernel: Kernel, dtypes: Sequence[DType], entry: ptx.Entry, code: sass.Function
) -> Iterator[str]:
    """Spills, and narrow accesses where elements are streamed."""
    in_loops = code.in_loops()
    vectors: set[tuple[str, DType]] = set()
    narrow: set[tuple[str, str]] = set()
    for i, instruction in enumerate(code.instructions):
        kind, *modifiers = instruction.opcode.split(".")
        if kind in {"LDL", "STL"}:
            yield f"local memory is accessed: {instruction.opcode} {instruction.operands}"
        origin = entry.index_of_line.get(instruction.ptx_line)
        if kind not in {"LDG", "STG"} or origin is None:
            continue
        from_ptx = entry.instructions[origin]
        dtype = ptx.dtype_of(from_ptx)
        if dtype is None and from_ptx.function == "" and len(dtypes) == 1:
            dtype = dtypes[0]  # in the body of a kernel for one dtype
        if dtype is None:
            continue  # tables, partial results
        if {"128", "256"} & set(modifiers):
            if i in in_loops:
                vectors.add((kind, dtype))
        elif i in in_loops and not may_be_scalar(from_ptx.source):
            place = f"{Path(from_ptx.source.file).name}:{from_ptx.source.line}"
            narrow.add((instruction.opcode, place))
    for opcode, place in sorted(narrow):
        yield f"{opcode} at {place}, which no `Scalar:` comment explains"
    for kind, needed in (("LDG", kernel.reads), ("STG", kernel.writes)):
        for dtype in dtypes:
            if needed and (kind, dtype) not in vectors:
                yield f"no loop with {kind} of 128 bits for {CPP_TYPES[dtype]}"


def ptx_violations(kernel: Kernel, dtypes: Sequence[DType], entry: ptx.Entry) -> Iterator[str]:
    """Assertions, and routines in streaming loops that the list does not excuse."""
    if any("__assertfail" in each.operands for each in entry.instructions):
        yield "calls __assertfail"
    routines = _routines(entry)
    for dtype, opcodes in routines.items():
        if opcodes and dtype not in kernel.routines:
            what = CPP_TYPES[dtype] if dtype is not None else "an unknown type"
            yield f"the streaming loop for {what} contains {', '.join(sorted(opcodes))}"
    for dtype in dtypes:
        if dtype not in routines:
            yield f"no streaming loop in the PTX for {CPP_TYPES[dtype]}"


def needless_excuses(compiled: Sequence[Compiled]) -> Iterator[str]:
    """Routines that the list excuses, and that are in the code for no GPU."""
    found = {
        (c.kernel.symbol, d) for c in compiled for d, what in _routines(c.entry).items() if what
    }
    for kernel in dict.fromkeys(c.kernel for c in compiled):
        for dtype in kernel.routines:
            if (kernel.symbol, dtype) not in found:
                yield f"{kernel.symbol}: no routine for {CPP_TYPES[dtype]} needs an excuse"


def _routines(entry: ptx.Entry) -> dict[DType | None, set[str]]:
    """The opcodes of software routines in the streaming loops of each dtype."""
    routines: dict[DType | None, set[str]] = {}
    for loop in entry.streaming_loops():
        opcodes = {entry.instructions[i].opcode for i in loop}
        found = routines.setdefault(entry.dtype_of_loop(loop), set())
        found |= {opcode for opcode in opcodes if ptx.is_software_routine(opcode)}
    return routines
