"""What stage 1 may execute for each byte that it moves, so that memory limits it."""

from __future__ import annotations

import re
from pathlib import Path

from .listing import Function

STAGE1 = Path(__file__).resolve().parents[1] / "reorder_quantize"

_BITS = {"f16": 16, "bf16": 16, "s8": 8, "s4": 4}

# The target of docs/design.md, section 14, is .85 of what an H200 copies, 4.3 TB/s. It has 132 SMs
# of four schedulers, which run at 1.7 GHz under load. The scheduler model of docs/kernels.md gives
# the loops .75 to .87 instructions a clock and scheduler without memory (2026-11-30).
TARGET = "90a"
_BYTES_A_SECOND = 0.85 * 4.3e12
_INSTRUCTIONS_A_CLOCK = 0.8
MOST_PER_BYTE = 132 * 4 * 1.7e9 * _INSTRUCTIONS_A_CLOCK / _BYTES_A_SECOND


def instructions_per_byte(
    function: Function, head_dim: int, block_k: int, source: str, key: str, value: str
) -> float:
    """Instructions of all warps over the bytes read and written, for keys and values together.

    Counted are the two loops over key blocks with all that lies in them, also where only some warps
    go, and what lies before each loop, once for the key blocks of a run.

    Raises:
        ValueError: the function has not one loop for keys and one for values.
    """
    if len(function.loops) != 2:
        raise ValueError(f"loops: expected one for keys, one for values, got {function.loops}")
    first, second = function.loops
    loops = first.last - first.first + second.last - second.first + 2
    before = first.first + second.first - first.last - 1
    warps = _threads(head_dim) // 32
    elements = head_dim * block_k
    moved = elements * (2 * _BITS[source] + _BITS[key] + _BITS[value]) / 8
    return warps * (loops + before * block_k / _run_tokens()) / moved


def _threads(head_dim: int) -> int:
    text = (STAGE1 / "tile.cuh").read_text()
    ((narrow, wide),) = re.findall(r"int threads = D == 64 \? (\d+) : (\d+);", text)
    return int(narrow if head_dim == 64 else wide)


def _run_tokens() -> int:
    (tokens,) = re.findall(r"int run_tokens = (\d+);", (STAGE1 / "kernel.cuh").read_text())
    return int(tokens)
