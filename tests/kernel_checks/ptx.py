"""Reads the PTX that nvcc emits."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

import networkx as nx
from cubins import demangle, short_name
from kernels import DType
from source_lines import SourceLine, dtype_of_template


class Instruction(NamedTuple):
    """One instruction.

    Args:
        opcode: with its modifiers, as "ld.global.v4.u32".
        operands: all behind it.
        conditional: whether a predicate may keep it from being executed.
        function: the inlined function that it belongs to, mangled; "" in the kernel's own body.
        source: where in that function.
    """

    opcode: str
    operands: str
    conditional: bool
    function: str
    source: SourceLine


class Entry:
    """A kernel."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.threads = 0
        self.instructions: list[Instruction] = []
        self.labels: dict[str, int] = {}
        self.index_of_line: dict[int, int] = {}
        self.branch_targets: dict[str, list[str]] = {}

    def streaming_loops(self) -> list[frozenset[int]]:
        """The loops that load vectors, each as the indices of its instructions: for every load the
        innermost loop around it."""
        graph = nx.DiGraph()
        graph.add_edges_from(self._flow())
        inner_first = sorted(_loops(graph), key=len)
        loads = [i for i, each in enumerate(self.instructions) if is_vector_load(each.opcode)]
        around = (next((loop for loop in inner_first if load in loop), None) for load in loads)
        return list(dict.fromkeys(loop for loop in around if loop is not None))

    def dtype_of_loop(self, loop: frozenset[int]) -> DType | None:
        """The dtype of the loop's vector loads."""
        loads = [self.instructions[i] for i in sorted(loop)]
        dtypes = (dtype_of(each) for each in loads if is_vector_load(each.opcode))
        return next((dtype for dtype in dtypes if dtype is not None), None)

    def _flow(self) -> Iterator[tuple[int, int]]:
        for i, instruction in enumerate(self.instructions):
            kind = instruction.opcode.partition(".")[0]
            for label in self._targets(instruction) if kind in {"bra", "brx"} else ():
                if self.labels.get(label, len(self.instructions)) < len(self.instructions):
                    yield i, self.labels[label]
            if instruction.conditional or kind not in {"bra", "brx", "ret", "exit", "trap"}:
                yield i, i + 1

    def _targets(self, branch: Instruction) -> list[str]:
        names = re.findall(r"\$L_\w+", branch.operands)
        return [target for name in names for target in self.branch_targets.get(name, [name])]


def dtype_of(instruction: Instruction) -> DType | None:
    """The dtype that the function around an instruction is instantiated for."""
    return _dtype_of_function(instruction.function)


@functools.cache
def _dtype_of_function(mangled: str) -> DType | None:
    return dtype_of_template(short_name(demangle([mangled])[mangled])) if mangled else None


def is_vector_load(opcode: str) -> bool:
    """Whether it loads 16 bytes or more from global memory at once."""
    match = re.match(r"ld\.global\S*?\.v(\d)\.[a-z](\d+)$", opcode)
    return match is not None and int(match.group(1)) * int(match.group(2)) >= 128


def is_software_routine(opcode: str) -> bool:
    """Whether ptxas makes a routine of it, with a slow path that is a call: float64 division,
    reciprocal and square root, integer division by what is not known, and calls themselves."""
    return (
        re.match(r"(div|rcp|sqrt|rsqrt)\..*f64$|(div|rem)\.[su](32|64)$|call(\.|$)", opcode)
        is not None
    )


def _loops(graph: nx.DiGraph) -> Iterator[frozenset[int]]:
    """All loops: strongly connected parts, and those that are left in one without its entries."""
    pending = [set(graph.nodes)]
    while pending:
        part = graph.subgraph(pending.pop()).copy()
        for component in nx.strongly_connected_components(part):
            first = min(component)
            if len(component) == 1 and not part.has_edge(first, first):
                continue
            yield frozenset(component)
            entries = {
                n for n in component if any(b not in component for b in graph.predecessors(n))
            }
            pending.append(component - (entries or {first}))


_ENTRY = re.compile(r"\.visible \.entry (\w+)\(")
_LABEL = re.compile(r"(\$L_\w+):$")
_LOCATION = re.compile(r"\.loc\s+(\d+) (\d+) \d+(?:, function_name (\$\w+))?")
_TARGETS = re.compile(r"(\$L_\w+):\s*\.branchtargets\s*(.*)$", re.DOTALL)
_INSTRUCTION = re.compile(r"(@!?%p\d+\s+)?([a-z][\w.:]*)(?:\s+(.*))?;$", re.DOTALL)


def parse(text: str) -> list[Entry]:
    """The kernels of a PTX file."""
    names = _debug_strings(text)
    files = {int(n): name for n, name in re.findall(r'^\s*\.file\s+(\d+) "([^"]+)"', text, re.M)}
    entries: list[Entry] = []
    entry: Entry | None = None
    function, source = "", SourceLine("", 0)
    for number, line in _statements(text):
        if match := _ENTRY.match(line):
            entry = Entry(match.group(1))
            entries.append(entry)
        elif re.match(r"(\.visible |\.weak )?\.func", line):
            entry = None
        elif entry is None:
            continue
        elif match := re.match(r"\.maxntid (\d+)(?:, (\d+))?(?:, (\d+))?", line):
            x, y, z = (int(n or 1) for n in match.groups())
            entry.threads = x * y * z
        elif match := _LOCATION.match(line):
            source = SourceLine(files.get(int(match.group(1)), ""), int(match.group(2)))
            function = names.get(match.group(3) or "", "")
        elif match := _TARGETS.match(line):
            entry.branch_targets[match.group(1)] = re.findall(r"\$L_\w+", match.group(2))
        elif match := _LABEL.match(line):
            entry.labels[match.group(1)] = len(entry.instructions)
        elif match := _INSTRUCTION.match(line):
            predicate, opcode, operands = match.groups()
            entry.index_of_line[number] = len(entry.instructions)
            entry.instructions.append(
                Instruction(opcode, operands or "", predicate is not None, function, source)
            )
    return entries


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, and a statement that goes over several lines as its last."""
    pending = ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"//.*", "", raw).strip()
        starts = re.match(r"(@!?%p\d+\s+)?call\b|\$L_\w+:\s*\.branchtargets", line)
        if pending or starts:
            pending = f"{pending} {line}".strip()
            if not line.endswith(";"):
                continue
            line, pending = pending, ""
        if line:
            yield number, line


def _debug_strings(text: str) -> dict[str, str]:
    """The strings of .debug_str by their labels, which .loc refers to."""
    data: dict[str, list[int]] = {}
    label = ""
    for line in text.partition(".section\t.debug_str")[2].splitlines():
        if match := re.match(r"(\$L__info_string\d+):", line):
            label = match.group(1)
            data[label] = []
        elif label and (match := re.match(r"\.b8 ([\d,]+)", line)):
            data[label] += [int(byte) for byte in match.group(1).split(",")]
    return {label: bytes(b).partition(b"\0")[0].decode() for label, b in data.items()}
