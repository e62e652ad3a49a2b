"""Registers that instructions write and read, from nvdisasm's operands."""

from __future__ import annotations

import re

# Nothing of these goes to a register: stores, barriers, branches, predicates, uniform registers.
_NO_RESULT = re.compile(
    r"ST|BAR|BR|SYNCS|WARP|DEPBAR|EXIT|RED|NOP|U[A-Z]|.?SETP|PLOP3|R2UR|BSSY|BSYNC|FENCE|MEMBAR"
    r"|ELECT|FCHK|R2P|CALL|RET|VOTEU|LDGSTS"
)
_REGISTER = re.compile(r"\bR(\d+)\b")


def run(operand: str, count: int) -> set[int]:
    """`count` registers from the one that the operand begins with; none where it is another."""
    register = _REGISTER.match(operand)
    return set(range(int(register[1]), int(register[1]) + count)) if register else set()


def written(opcode: str, operands: str) -> set[int]:
    """What an instruction writes."""
    if _NO_RESULT.match(opcode):
        return set()
    parts = [part.strip() for part in operands.split(",")]
    results = [part for part in parts if not re.match(r"U?P(\d|T)", part)]
    return run(results[0], _width(opcode)) if results else set()


def used(opcode: str, operands: str) -> set[int]:
    """What an instruction reads."""
    parts = [part.strip() for part in operands.split(",")]
    if not _NO_RESULT.match(opcode):
        parts = parts[1:]
    stored = opcode.startswith("ST")
    registers: set[int] = set()
    for index, part in enumerate(parts):
        registers |= {int(register) for register in _REGISTER.findall(part)}
        if stored and index > 0:
            registers |= run(part, _width(opcode))
    return registers


def _width(opcode: str) -> int:
    """Registers of an operand in memory, or of a wide result."""
    if ".128" in opcode:
        return 4
    return 2 if ".64" in opcode or ".WIDE" in opcode else 1
