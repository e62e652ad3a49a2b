"""nvdisasm's listing of a cubin: functions, their instructions and their loops."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_SECTION = re.compile(r"\.section\s+\.text\.(\S+?),")
_LABEL = re.compile(r"(\.L_x_\d+):")
_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?(\S+)(.*?);")
_TARGET = re.compile(r"`\((\.L_x_\d+)\)")


@dataclass(frozen=True)
class Loop:
    """A backward branch and what lies between its target and itself, by indices of instructions."""

    first: int
    last: int


@dataclass
class Function:
    """A function as it lies in the listing.

    opcodes: of its instructions, in order, without predicates and operands.
    operands: of the same instructions, as text.
    loops: every backward branch, outer and inner.
    """

    mangled_name: str
    opcodes: list[str] = field(default_factory=list)
    operands: list[str] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)

    def count(self, pattern: str) -> int:
        """Instructions whose opcode matches from its start."""
        return sum(1 for opcode in self.opcodes if re.match(pattern, opcode))

    def in_loop(self, loop: Loop) -> list[str]:
        """Opcodes of a loop, its branch included."""
        return self.opcodes[loop.first : loop.last + 1]


def parse(text: str) -> list[Function]:
    """Functions of `nvdisasm -c`'s output.

    Raises:
        ValueError: the text has none, or one without instructions.
    """
    functions: list[Function] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if section := _SECTION.search(line):
            functions.append(Function(section[1]))
            labels = {}
        elif not functions:
            continue
        elif label := _LABEL.match(line):
            labels[label[1]] = len(functions[-1].opcodes)
        elif instruction := _INSTRUCTION.match(line):
            _add(functions[-1], labels, instruction[1], instruction[2])
    empty = [function.mangled_name for function in functions if not function.opcodes]
    if not functions or empty:
        raise ValueError(f"nvdisasm: expected functions with instructions, got {empty or 'none'}")
    return functions


def _add(function: Function, labels: dict[str, int], opcode: str, operands: str) -> None:
    place = len(function.opcodes)
    function.opcodes.append(opcode)
    function.operands.append(operands.strip())
    target = _TARGET.search(operands)
    # A branch to itself fills the end of every function.
    if opcode.startswith("BRA") and target and labels.get(target[1], place) < place:
        function.loops.append(Loop(labels[target[1]], place))
