"""Reads the machine code that nvdisasm prints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import networkx as nx


class Instruction(NamedTuple):
    """One instruction.

    Args:
        opcode: with its modifiers, as "LDG.E.128".
        operands: all behind it.
        conditional: whether a predicate may keep it from being executed.
        ptx_line: of the PTX instruction that it was made from.
    """

    opcode: str
    operands: str
    conditional: bool
    ptx_line: int


class Function:
    """A kernel's code."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.instructions: list[Instruction] = []
        self.labels: dict[str, int] = {}  # the index of the instruction that follows

    def in_loops(self) -> set[int]:
        """The indices of the instructions that can be reached from themselves."""
        graph = nx.DiGraph()
        graph.add_edges_from(self._flow())
        found: set[int] = set()
        for component in nx.strongly_connected_components(graph):
            first = next(iter(component))
            if len(component) > 1 or graph.has_edge(first, first):
                found |= component
        return found

    def _flow(self) -> Iterator[tuple[int, int]]:
        """From each instruction to those that may be next."""
        for i, instruction in enumerate(self.instructions):
            kind = instruction.opcode.partition(".")[0]
            goes_on = instruction.conditional or kind not in {*_BRANCHES, "EXIT", "RET"}
            if kind in _BRANCHES:
                # `BRA.U UP0, label`, `BRA.DIV ~URZ, label`: a condition among the operands.
                goes_on |= kind == "BRA" and not instruction.operands.startswith("`(")
                for label in re.findall(r"\.L_\w+", instruction.operands):
                    if self.labels.get(label, len(self.instructions)) < len(self.instructions):
                        yield i, self.labels[label]
            if goes_on and i + 1 < len(self.instructions):
                yield i, i + 1


_BRANCHES = {"BRA", "BRX", "BRXU"}
_FUNCTION = re.compile(r"\.text\.(\S+):$")
_LABEL = re.compile(r"(\.L_\w+):$")
_PTX_LINE = re.compile(r'//## File ".nv_debug_ptx_txt", line (\d+)')
_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+ +)?([A-Z][\w.]*)\s*(.*?)\s*$")


def parse(text: str) -> list[Function]:
    """The functions that nvdisasm printed with --print-line-info-ptx."""
    functions: list[Function] = []
    ptx_line = 0
    for line in text.splitlines():
        stripped = line.strip()
        if match := _FUNCTION.match(stripped):
            functions.append(Function(match.group(1)))
        elif not functions:
            continue
        elif match := _PTX_LINE.match(stripped):
            ptx_line = int(match.group(1))
        elif match := _LABEL.match(stripped):
            functions[-1].labels[match.group(1)] = len(functions[-1].instructions)
        elif match := _INSTRUCTION.match(line):
            predicate, opcode, operands = match.groups()
            functions[-1].instructions.append(
                Instruction(opcode, operands.rstrip("; "), predicate is not None, ptx_line)
            )
    return functions
