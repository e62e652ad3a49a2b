"""What stage 1 may execute for each byte that it moves, so that memory limits it."""

from __future__ import annotations

import re
from pathlib import Path

from .listing import Function

STAGE1 = Path(__file__).resolve().parents[1] / "reorder_quantize"

# The target of docs/design.md, section 14, is .85 of what an H200 copies, 4.3 TB/s. It has 132 SMs
# of four schedulers, which run at 1.7 GHz under load. The scheduler model of docs/kernels.md gives
# the loops .75 to .87 instructions a clock and scheduler without memory (2026-11-30).
TARGET = "90a"
_BYTES_A_SECOND = 0.85 * 4.3e12
_INSTRUCTIONS_A_CLOCK = 0.8
MOST_PER_BYTE = 132 * 4 * 1.7e9 * _INSTRUCTIONS_A_CLOCK / _BYTES_A_SECOND


def instructions_per_byte(function: Function, head_dim: int, block_k: int) -> dict[str, float]:
    """Of each loop over key blocks: instructions of all warps over the bytes read and written, by
    what it prepares, such as "key s8"; "16 bits" is that of keys or values.

    Counted is all that lies in the loop, also where only some warps go, and what lies before it,
    once for the key blocks of a run.

    Raises:
        ValueError: there is not one loop for each of six cases.
    """
    found: dict[str, float] = {}
    end = -1
    for loop in function.loops:
        case, bits = _case(function.in_loop(loop))
        count = loop.last - loop.first + 1 + (loop.first - end - 1) * block_k / _run_tokens()
        moved = head_dim * block_k * (16 + bits) / 8
        found[case] = max(found.get(case, 0.0), count * _threads(head_dim) / 32 / moved)
        end = loop.last
    if len(function.loops) != 6 or len(found) != 5:
        raise ValueError(f"loops: expected six, of all types, got {found} in {function.loops}")
    return found


def _case(opcodes: list[str]) -> tuple[str, int]:
    """What a loop stores, by its instructions: only values are transposed, by ldmatrix."""
    if not any(re.match(r"F2IP?\.", opcode) for opcode in opcodes):
        return "16 bits", 16
    if any(opcode.startswith("LDSM") for opcode in opcodes):
        return ("value s8", 8) if "STG.E.128" in opcodes else ("value s4", 4)
    return ("key s8", 8) if "STG.E.64" in opcodes else ("key s4", 4)


def _threads(head_dim: int) -> int:
    text = (STAGE1 / "tile.cuh").read_text()
    ((narrow, wide),) = re.findall(r"int threads = D == 64 \? (\d+) : (\d+);", text)
    return int(narrow if head_dim == 64 else wide)


def _run_tokens() -> int:
    (tokens,) = re.findall(r"int run_tokens = (\d+);", (STAGE1 / "kernel.cuh").read_text())
    return int(tokens)
