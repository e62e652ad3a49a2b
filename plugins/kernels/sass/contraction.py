"""Sums of stage 1 that a compiler has joined with a product, which rounds once instead of twice.

The mean of a key block adds preconditioned values, (x - mean) * factor, in the reference's order.
Contracted to FFMA, a sum would not round the product, and the summary token's codes would differ
from the reference's by chance.
"""

from __future__ import annotations

import re

from . import registers
from .listing import Function

_FUSED, _PRODUCT, _SUM = "FFMA", "FMUL", "FADD"


def contracted(function: Function) -> list[str]:
    """FFMAs that add a product, and sums that take the result of an FFMA.

    A reciprocal or a division is made of FFMAs too. They add constants, the value that they refine
    or a numerator, and their one sum ends in .FTZ.
    """
    found = []
    writers: dict[int, str] = {}
    for opcode, operands in zip(function.opcodes, function.operands, strict=True):
        kind = opcode.split(".")[0]
        parts = [part.strip() for part in operands.split(",")]
        if kind == _FUSED and writers.get(_register(parts[-1])) == _PRODUCT:
            found.append(f"{opcode} {operands}: a product is added without being rounded")
        if opcode == _SUM and _FUSED in {writers.get(_register(part)) for part in parts[1:]}:
            found.append(f"{opcode} {operands}: a sum takes a product that was not rounded")
        for register in registers.written(opcode, operands):
            writers[register] = kind
    return list(dict.fromkeys(found))


def _register(operand: str) -> int:
    """-1 for what is no register."""
    found = re.search(r"\bR(\d+)\b", operand)
    return int(found[1]) if found else -1
