"""wgmma products that still run: what touches their registers, and what delays them.

A wgmma is asynchronous. From its IGMMA until a WARPGROUP.DEPBAR has waited for its group, nothing
else may read or write its accumulators, nor write the registers that it reads. Instructions between
the IGMMAs of one group leave the tensor cores idle.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from . import registers
from .listing import Function

MOST_BETWEEN = 98
"""Other instructions between two IGMMAs of a group: what nvcc 13.0 schedules at block_k 64, where
the second P V of a step waits for codes that are still packed."""

_PRODUCT = re.compile(r"IGMMA\.64x(\d+)x")
_WAIT = re.compile(r"WARPGROUP\.DEPBAR")
_CLOSES_GROUP = "gsb0"


@dataclass
class _Group:
    """Registers of the products of a group."""

    accumulators: set[int] = field(default_factory=set)
    read: set[int] = field(default_factory=set)


def hazards(function: Function) -> list[str]:
    """What touches registers of products in flight; each loop is walked a second time, with what
    its end leaves in flight."""
    found = []
    order = list(range(len(function.opcodes)))
    for loop in sorted(function.loops, key=lambda loop: loop.last, reverse=True):
        order[loop.last + 1 : loop.last + 1] = range(loop.first, loop.last + 1)
    groups: list[_Group] = []
    current = _Group()
    for place in order:
        opcode, operands = function.opcodes[place], function.operands[place]
        if product := _PRODUCT.match(opcode):
            added = _registers_of_product(int(product[1]), operands)
            if any(group.accumulators & added.read for group in groups):
                found.append(f"{opcode} {operands}: reads a product that still runs")
            if any(group.read & added.accumulators for group in [*groups, current]):
                found.append(f"{opcode} {operands}: overwrites what a product still reads")
            current.accumulators |= added.accumulators
            current.read |= added.read
            if _CLOSES_GROUP in operands:
                groups.append(current)
                current = _Group()
        elif _WAIT.match(opcode):
            kept = int(re.findall(r"0x([0-9a-f]+)", operands)[-1], 16)
            groups = groups[-kept:] if kept else []
        elif opcode.startswith("EXIT"):
            groups, current = [], _Group()
        else:
            running = [*groups, current]
            accumulators = set().union(*(group.accumulators for group in running))
            read = set().union(*(group.read for group in running))
            written = registers.written(opcode, operands)
            used = registers.used(opcode, operands)
            if written & (accumulators | read) or used & accumulators:
                found.append(f"{opcode} {operands}: touches a product that still runs")
    return list(dict.fromkeys(found))


def between_products(function: Function) -> int:
    """The most other instructions between two neighbouring IGMMAs of a group."""
    return max(_gaps(function), default=0)


def _gaps(function: Function) -> Iterator[int]:
    last = None
    for place, opcode in enumerate(function.opcodes):
        if _PRODUCT.match(opcode):
            if last is not None:
                yield place - last - 1
            last = None if _CLOSES_GROUP in function.operands[place] else place


def _registers_of_product(columns: int, operands: str) -> _Group:
    """A lane has a register for every two of 64 x `columns` results, and four of A."""
    result, first = (part.strip() for part in operands.split(",")[:2])
    return _Group(registers.run(result, columns // 2), registers.run(first, 4))
