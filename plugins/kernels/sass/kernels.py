"""What a compiled kernel must look like: wanted instructions, and what its hot loop costs."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from . import pipes, products_in_flight, stage1
from .listing import Function, Loop

KERNELS = Path(__file__).resolve().parents[1]

_PRODUCT = r"([IH]MMA|IGMMA)\."
_LOCAL_MEMORY = r"(LDL|STL)\b"

# Q K^T by wgmma, of 64 rows and a number of keys; P V differs in its first type.
_WGMMA_SCORES = r"IGMMA\.64x(\d+)x32\.S8\.S8"
_WGMMA_ROWS, _WGMMA_LANES, _WGMMA_DEPTH = 64, 128, 32

# Folders of what version 2 computes between the stages; their kernels are named with them.
_BETWEEN_STAGES = ("routing", "smoothing", "summaries")

# Keys of one mma, which is the same for both products; elements of an accumulator tile a lane.
_PRODUCT_DEPTH = {"f16": 16, "bf16": 16, "s8": 32, "s4": 64}
_TILE_SCORES = 4


@dataclass(frozen=True)
class Measured:
    """Of one kernel for one target; the last three are of stage 2's hot loop.

    registers: of a thread.
    local: instructions that access local memory, which is where registers are spilled.
    per_score: of stage 2: instructions of the hot loop for each element of S; 0 for others. Of
        smoothed kernels: those that a step executes for moderate logits, and its share of what
        runs once in eight.
    per_byte: of stage 1: instructions for each byte that the costliest of its loops moves
        (`stage1.instructions_per_byte`); 0 for others.
    clocks: that a warp's hot loop holds each pipe of a partition, and its issue slot (pipes.py).
    stalls: clocks of the hot loop in which a warp waits for its own instructions' fixed latency,
        the issue of each included: the least time of a warp that is alone.
    between: the most instructions between two products of a group, for wgmma.
    """

    registers: int
    local: int
    per_score: float = 0.0
    per_byte: float = 0.0
    clocks: dict[str, int] = field(default_factory=dict)
    stalls: int = 0
    between: int = 0

    def figures(self) -> dict[str, float]:
        """By name, such as "clocks of fp32"; less is better for all."""
        single = {name: value for name, value in vars(self).items() if name != "clocks"}
        return single | {f"clocks of {pipe}": held for pipe, held in self.clocks.items()}


@dataclass(frozen=True)
class Kernel:
    """A kernel by its template arguments.

    Args:
        name: such as "sparse_attention 128x64x64 s8-s4 native".
        sizes: integer arguments; the first is head_dim, the second of stage 1's block_k.
        numbers: stage 2's types of QK and PV; stage 1's of the inputs.
        four_bit: how 4-bit products are computed; "" where there are none.
    """

    name: str
    sizes: tuple[int, ...]
    numbers: tuple[str, ...]
    four_bit: str

    @property
    def has_products(self) -> bool:
        """Whether it is stage 2."""
        return self.name.startswith("sparse_attention")

    @property
    def is_stage_1(self) -> bool:
        """Whether it is of stage 1, whose sums have an order."""
        return not self.has_products and "::" not in self.name

    @property
    def uses_wgmma(self) -> bool:
        """Whether it is stage 2 for Hopper."""
        return self.name.startswith("sparse_attention_wgmma")

    @property
    def is_fine(self) -> bool:
        """Whether it is stage 2 with fine summaries."""
        return self.name.split()[0].endswith("_fine")

    @property
    def is_smoothed(self) -> bool:
        """Whether it is stage 2 of smoothed 4-bit QK, with or without fine summaries."""
        return self.name.startswith("sparse_attention_smoothed ")

    def wanted_opcodes(self) -> list[str]:
        """Patterns of instructions that it cannot do without."""
        if not self.has_products:
            return []
        if self.uses_wgmma:  # bulk copies, barriers that count their bytes, registers handed over
            products = [_WGMMA_SCORES, r"IGMMA\.64x\d+x32\.U8\.S8"]
            return [*products, r"UBLKCP\.", r"SYNCS\.PHASECHK", r"USETMAXREG\."]
        query_key, value = self.numbers
        products = [self._product(query_key, "S"), self._product(value, "U")]
        return [*products, r"LDSM\.16\.M88", r"LDGSTS\."]

    def measure(self, function: Function, registers: int, target: str) -> Measured:
        """Of a function compiled for sm_<target>.

        Raises:
            ValueError: no loop is the hot one.
        """
        local = function.count(_LOCAL_MEMORY)
        if not self.has_products:
            per_byte = self._per_byte(function) if self.name.startswith("reorder_tokens") else 0.0
            return Measured(registers, local, per_byte=round(per_byte, 3))
        loop = self.hot_loop(function)
        return Measured(
            registers,
            local,
            per_score=round(self._per_score(function, loop, target), 3),
            clocks=pipes.clocks_per_pipe(function.in_loop(loop), target),
            stalls=sum(each.stall for each in function.controls[loop.first : loop.last + 1]),
            between=products_in_flight.between_products(function) if self.uses_wgmma else 0,
        )

    def _product(self, number: str, sign: str) -> str:
        if number == "s4" and self.four_bit == "native":
            return rf"IMMA\.16864\.{sign}4\.S4"
        if number in ("s8", "s4"):
            return rf"IMMA\.16832\.{sign}8\.S8"
        return rf"HMMA\.16816\.F32{'.BF16' if number == 'bf16' else ''}$"

    def scores_a_lane(self, loop: list[str]) -> float:
        """Elements of S that a lane computes in a loop.

        Raises:
            ValueError: the products in it are not those of whole steps.
        """
        scores = self._wgmma_scores(loop) if self.uses_wgmma else self._mma_scores(loop)
        if scores == 0 or scores % 32 != 0:
            raise ValueError(f"hot loop: expected a multiple of 32 scores a lane, got {scores:g}")
        return scores

    def _per_score(self, function: Function, loop: Loop, target: str) -> float:
        count: float = loop.last - loop.first + 1
        if self.is_smoothed:
            count -= len(pipes.skipped_arithmetic(function, loop, target))
            count += _outside(function, loop) / _smoothed_steps()
        return count / self.scores_a_lane(function.in_loop(loop))

    def _per_byte(self, function: Function) -> float:
        return max(stage1.instructions_per_byte(function, *self.sizes).values())

    def _mma_scores(self, loop: list[str]) -> float:
        """Of a lane, counted by products: 4 of a lane take D / depth of them in Q K^T, and the same
        scores D / depth in P V."""
        stored = ["s8" if n == "s4" and self.four_bit == "unpacked" else n for n in self.numbers]
        products_a_tile = sum(self.sizes[0] / _PRODUCT_DEPTH[number] for number in stored)
        return _TILE_SCORES * sum(map(_is_product, loop)) / products_a_tile

    def _wgmma_scores(self, loop: list[str]) -> float:
        """Of a lane: an instruction takes 32 of D channels."""
        widths = [int(found[1]) for opcode in loop if (found := re.match(_WGMMA_SCORES, opcode))]
        return sum(widths) * _WGMMA_DEPTH / self.sizes[0] * _WGMMA_ROWS / _WGMMA_LANES

    def hot_loop(self, function: Function) -> Loop:
        """Of steps whose keys are all attended. Of two loops of steps, the shorter: the other one
        asks how many tokens a key stands for. Those of fine summaries follow, and where smoothed
        ones multiply 8 bits, of coarse ones too.

        Raises:
            ValueError: there are more or fewer.
        """
        scores = self.wanted_opcodes()[0]
        with_products = [
            loop
            for loop in function.loops
            if any(re.match(scores, opcode) for opcode in function.in_loop(loop))
        ]
        innermost = sorted(
            (
                loop
                for loop in with_products
                if not any(o != loop and loop.first <= o.first and o.last <= loop.last
                           for o in with_products)
            ),
            key=lambda loop: loop.first,
        )  # fmt: skip
        candidates, others = self._loops()
        if len(innermost) != candidates + others:
            raise ValueError(
                f"hot loop: expected one of {candidates + others}, got {len(innermost)} of "
                f"{len(function.loops)} loops"
            )
        return min(innermost[:candidates], key=lambda loop: loop.last - loop.first)

    def _loops(self) -> tuple[int, int]:
        """How many loops have products of the hot one's kind: of steps, and after them."""
        if self.is_smoothed:
            return 1, 0 if self.four_bit == "native" else 2
        return 2, int(self.is_fine)


def kernels_of(functions: list[Function]) -> list[tuple[Kernel, Function]]:
    """Each function's kernel, by its demangled name."""
    names = "\n".join(function.mangled_name for function in functions)
    demangled = subprocess.run(
        ["c++filt"], input=names, capture_output=True, text=True, check=True
    ).stdout
    lines = demangled.splitlines()
    return [(_kernel(line), function) for line, function in zip(lines, functions, strict=True)]


def _kernel(demangled: str) -> Kernel:
    number_names = _enumerators("params.h", "Number")
    four_bit_names = _enumerators("params.h", "FourBit")
    path, opened = re.findall(r"^(?:void )?([\w:]+)(<?)", demangled)[0]
    arguments = demangled[demangled.index("<") : demangled.rindex(">")] if opened else ""
    _, _, folder, *_, function = path.split("::")
    sizes = tuple(int(size) for size in re.findall(r"[<,] ?(\d+)(?=[,>]|$)", arguments))
    numbers = tuple(number_names[int(i)] for i in re.findall(r"Number\)(\d+)", arguments))
    four_bit = [four_bit_names[int(i)] for i in re.findall(r"FourBit\)(\d+)", arguments)]
    used = four_bit[0] if four_bit and "s4" in numbers else ""
    if folder in _BETWEEN_STAGES:
        source = {"<true": "bf16", "<false": "f16"}.get(arguments.split(",")[0], "")
        words = [f"{folder}::{function}", source, "x".join(map(str, sizes))]
        return Kernel(" ".join(filter(None, words)), sizes, (), "")
    pooled = "pooled" if arguments.endswith("true") else ""
    words = [function, "x".join(map(str, sizes)), "-".join(numbers), used, pooled]
    return Kernel(" ".join(filter(None, words)), sizes, numbers, used)


def _enumerators(header: str, name: str) -> list[str]:
    source = (KERNELS / header).read_text()
    return re.findall(r"\w+", re.findall(rf"enum class {name} {{(.*?)}}", source)[0])


def _outside(function: Function, loop: Loop) -> int:
    """Instructions of the loop around another one, without those of loops in it."""
    around = [
        o for o in function.loops if o != loop and o.first <= loop.first < loop.last <= o.last
    ]
    if not around:
        raise ValueError("hot loop: expected one around it, got none")
    outer = min(around, key=lambda o: o.last - o.first)
    return outer.last - outer.first - (loop.last - loop.first)


def _smoothed_steps() -> int:
    """Steps whose offsets a smoothed kernel computes at once."""
    text = (KERNELS / "sparse_attention" / "sm80" / "smoothed_memory.cuh").read_text()
    return int(re.findall(r"int offset_blocks = (\d+);", text)[0])


def _is_product(opcode: str) -> bool:
    return re.match(_PRODUCT, opcode) is not None
