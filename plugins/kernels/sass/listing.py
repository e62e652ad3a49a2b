"""nvdisasm's listing of a cubin: functions, their instructions and their loops."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_SECTION = re.compile(r"\.section\s+\.text\.(\S+?),")
_LABEL = re.compile(r"(\.L_x_\d+):")
_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\S+)(.*?);")
_HIGH_HALF = re.compile(r"\s*/\* 0x([0-9a-f]{16}) \*/\s*$")
_TARGET = re.compile(r"`\((\.L_x_\d+)\)")

BARRIERS = 6
"""Counters of a warp for instructions of variable latency."""


@dataclass(frozen=True)
class Loop:
    """A backward branch and what lies between its target and itself, by indices of instructions."""

    first: int
    last: int


@dataclass(frozen=True)
class Control:
    """What the compiler tells a warp's scheduler in an instruction.

    Args:
        stall: clocks until the warp may issue its next instruction.
        stays: the scheduler prefers this warp for the next one.
        writes, reads: barriers that open when the result is written, and when the operands are
            read; None: none.
        waits: barriers that must be open before it is issued.
    """

    stall: int
    stays: bool
    writes: int | None
    reads: int | None
    waits: tuple[int, ...]

    @classmethod
    def of_high_half(cls, bits: int) -> Control:
        """From the upper 64 of an instruction's 128 bits, for sm_70 and later."""
        control = bits >> 41

        def barrier(shift: int) -> int | None:
            index = control >> shift & 7
            return index if index < BARRIERS else None

        waits = control >> 11
        return cls(
            stall=control & 15,
            stays=bool(control >> 4 & 1),
            writes=barrier(5),
            reads=barrier(8),
            waits=tuple(index for index in range(BARRIERS) if waits >> index & 1),
        )


@dataclass
class Function:
    """A function as it lies in the listing.

    opcodes: of its instructions, in order, without predicates and operands.
    operands: of the same instructions, as text.
    controls: of the same instructions.
    loops: every backward branch, outer and inner.
    jumps: of forward branches, the instruction behind and the one that they lead to.
    """

    mangled_name: str
    opcodes: list[str] = field(default_factory=list)
    operands: list[str] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)
    jumps: list[tuple[int, int]] = field(default_factory=list)

    def count(self, pattern: str) -> int:
        """Instructions whose opcode matches from its start."""
        return sum(1 for opcode in self.opcodes if re.match(pattern, opcode))

    def in_loop(self, loop: Loop) -> list[str]:
        """Opcodes of a loop, its branch included."""
        return self.opcodes[loop.first : loop.last + 1]


def parse(text: str) -> list[Function]:
    """Functions of `nvdisasm -c -hex`'s output.

    Raises:
        ValueError: the text has none, one without instructions, or instructions without encodings.
    """
    functions: list[Function] = []
    labels: dict[str, int] = {}
    forward: list[tuple[int, str]] = []
    for line in text.splitlines():
        if section := _SECTION.search(line):
            _add_jumps(functions, labels, forward)
            functions.append(Function(section[1]))
            labels, forward = {}, []
        elif not functions:
            continue
        elif label := _LABEL.match(line):
            labels[label[1]] = len(functions[-1].opcodes)
        elif instruction := _INSTRUCTION.match(line):
            _add(functions[-1], labels, forward, instruction[1], instruction[2])
        elif encoding := _HIGH_HALF.match(line):
            functions[-1].controls.append(Control.of_high_half(int(encoding[1], 16)))
    _add_jumps(functions, labels, forward)
    empty = [function.mangled_name for function in functions if not function.opcodes]
    if not functions or empty:
        raise ValueError(f"nvdisasm: expected functions with instructions, got {empty or 'none'}")
    for function in functions:
        if len(function.controls) != len(function.opcodes):
            raise ValueError(
                f"nvdisasm: expected an encoding for each instruction (-hex), got "
                f"{len(function.controls)} of {len(function.opcodes)}"
            )
    return functions


def _add(
    function: Function,
    labels: dict[str, int],
    forward: list[tuple[int, str]],
    opcode: str,
    operands: str,
) -> None:
    place = len(function.opcodes)
    function.opcodes.append(opcode)
    function.operands.append(operands.strip())
    target = _TARGET.search(operands)
    if not (opcode.startswith("BRA") and target):
        return
    if target[1] not in labels:
        forward.append((place, target[1]))
    # A branch to itself fills the end of every function.
    elif labels[target[1]] < place:
        function.loops.append(Loop(labels[target[1]], place))


def _add_jumps(
    functions: list[Function], labels: dict[str, int], forward: list[tuple[int, str]]
) -> None:
    if functions:
        functions[-1].jumps = [
            (place + 1, labels[name]) for place, name in forward if name in labels
        ]
