"""The pipes of an SM's partition, and how long an instruction holds one on each target.

An SM has four partitions. Each issues one warp instruction per clock to its pipes. Clocks are 32
lanes over the lanes of a pipe: CUDA programming guide, "Throughput of native arithmetic
instructions", for all but the tensor cores, whose clocks follow from the dense TOPS of a GPU's
datasheet over its SMs and boost clock. Nothing here was measured.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from .listing import Function, Loop


class Pipe(Enum):
    """Where an instruction goes; NONE: branches, barriers and waits."""

    FP32 = "fp32"
    ALU = "alu"
    TRANSCENDENTAL = "transcendental"
    UNIFORM = "uniform"
    TENSOR = "tensor"
    SHARED = "shared"
    NONE = "none"


@dataclass(frozen=True)
class Rates:
    """Clocks of a partition's pipe for one warp instruction.

    fp32: FFMA, FMUL, FADD. 64 lanes per SM on sm_80, 128 on later ones.
    multiply: IMAD and dot products of bytes, on half of the FP32 lanes.
    s8, f16: products m16n8k32 of 8 bits (of 4 bits: m16n8k64) and m16n8k16 of 16 bits with FP32
        sums.
    """

    fp32: float
    multiply: float
    s8: float
    f16: float


_HOPPER_MMA_SYNC = 6.6
"""mma.sync reaches about 60 % of what wgmma does on a Hopper, in publications."""

RATES = {
    "80": Rates(2, 2, s8=8, f16=8),  # A100: 624 TOPS, 312 TFLOPS; 108 SMs, 1.41 GHz
    "86": Rates(1, 2, s8=16, f16=32),  # RTX 3090: 284, 71; 82 SMs, 1.70 GHz
    "89": Rates(1, 2, s8=16, f16=32),  # RTX 4090: 661, 165; 128 SMs, 2.52 GHz
    "90a": Rates(1, 2, s8=_HOPPER_MMA_SYNC, f16=_HOPPER_MMA_SYNC),
    "100": Rates(
        1, 2, s8=_HOPPER_MMA_SYNC, f16=_HOPPER_MMA_SYNC
    ),  # as on a Hopper: no other figure
    "120": Rates(1, 1, s8=16, f16=32),  # RTX 5090: 838, 210; 170 SMs, 2.41 GHz
}

_ALU_CLOCKS = 2  # 64 lanes per SM
_UNIFORM_CLOCKS = 2
_TRANSCENDENTAL_CLOCKS = 8  # 16 lanes per SM
_WORD_CLOCKS = 4  # an SM's 128 bytes per clock for four partitions: 4 bytes a lane
_MATRIX_CLOCKS = 16  # 16 bytes a lane

_WGMMA = re.compile(r"[IHQ]GMMA\.64x(\d+)x")


@dataclass(frozen=True)
class Use:
    """What an instruction does to a partition.

    clocks: that it holds its pipe.
    latency: clocks until its result is there, where it varies and a barrier waits for it; assumed.
    multiplies: it also holds the half of the FP32 lanes that multiply integers.
    """

    pipe: Pipe
    clocks: float
    latency: int = 0
    multiplies: bool = False


def _kinds(rates: Rates) -> dict[str, Use]:
    """By pattern of opcodes, the first that matches."""
    return {
        r"BRA|BAR|DEPBAR|WARP|SYNCS|LDGDEPBAR|BSSY|BSYNC|EXIT|CALL|RET|NOP|FENCE|MEMBAR|ELECT|UBLKCP":
            Use(Pipe.NONE, 0, 20),
        r"IMMA": Use(Pipe.TENSOR, rates.s8),
        r"HMMA": Use(Pipe.TENSOR, rates.f16),
        # FP8 products, which other kernels than ours use, with sums in FP16 and in FP32.
        r"QMMA\.16832\.F16": Use(Pipe.TENSOR, rates.s8),
        r"QMMA": Use(Pipe.TENSOR, rates.f16),
        r"(MUFU|I2F|F2I|F2F|FLO|POPC|BREV)\b": Use(Pipe.TRANSCENDENTAL, _TRANSCENDENTAL_CLOCKS, 23),
        r"FFMA|FMUL|FADD": Use(Pipe.FP32, rates.fp32),
        r"IMAD|IDP": Use(Pipe.FP32, rates.multiply, multiplies=True),
        r"LDSM": Use(Pipe.SHARED, _MATRIX_CLOCKS, 31),
        r"LDGSTS": Use(Pipe.SHARED, _MATRIX_CLOCKS, 20),
        r"LDS": Use(Pipe.SHARED, _WORD_CLOCKS, 27),
        r"STS": Use(Pipe.SHARED, _WORD_CLOCKS, 20),
        r"SHFL": Use(Pipe.SHARED, _WORD_CLOCKS, 24),
        r"LDG|LDC\b": Use(Pipe.SHARED, _WORD_CLOCKS, 60),
        r"U[A-Z]|R2UR|S2UR|VOTEU": Use(Pipe.UNIFORM, _UNIFORM_CLOCKS, 12),
    }  # fmt: skip


_PATTERNS = {
    target: [(re.compile(pattern), use) for pattern, use in _kinds(rates).items()]
    for target, rates in RATES.items()
}


def use(opcode: str, target: str) -> Use:
    """Of an instruction for sm_<target>; what has no pattern goes to the ALU."""
    if product := _WGMMA.match(opcode):
        # 64 rows and 32 channels by N keys, at the SM's 4096 products per clock.
        return Use(Pipe.TENSOR, int(product[1]) / 2, 26)
    matching = (each for pattern, each in _PATTERNS[target] if pattern.match(opcode))
    return next(matching, Use(Pipe.ALU, _ALU_CLOCKS))


def clocks_per_pipe(opcodes: Iterable[str], target: str) -> dict[str, int]:
    """Clocks that a warp's instructions hold each pipe, and "issue", one for each of them."""
    clocks: Counter[str] = Counter()
    for opcode in opcodes:
        used = use(opcode, target)
        clocks["issue"] += 1
        if used.clocks:
            clocks[used.pipe.value] += used.clocks
    return {name: round(total) for name, total in sorted(clocks.items())}


def skipped_arithmetic(function: Function, loop: Loop, target: str) -> set[int]:
    """Places in a loop that a branch over arithmetic alone passes, as most steps take it: it moves
    a reference, or makes large logits small, once or twice in a walk."""
    arithmetic = {Pipe.FP32, Pipe.ALU, Pipe.TRANSCENDENTAL, Pipe.UNIFORM}
    skipped: set[int] = set()
    for first, last in function.jumps:
        used = {use(opcode, target).pipe for opcode in function.opcodes[first:last]}
        if loop.first <= first and last <= loop.last and used <= arithmetic:
            skipped |= set(range(first, last))
    return skipped
