"""Thread blocks of stage 2 that fit an SM, of every kernel on every target: resources.csv.

    python -m plugins.kernels.sass.resources            compare with what is recorded
    python -m plugins.kernels.sass.resources --update   record it

Registers are those of budget.json; sizes are what the emulated library (make emulated) describes
for a sequence of 75,600 tokens, Wan at 720p. Exit status 0 where the file is up to date, 1 where
not.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from paro_trt.op.c_structs import DTYPE_CODES, CAttention, CLaunch
from paro_trt.op.native import library_path

from . import budget

FILE = Path(__file__).with_name("resources.csv")
UPDATE = "python -m plugins.kernels.sass.resources --update"
TOKENS = 75_600

RESERVED_SHARED_BYTES = 1024
"""Of an SM's shared memory, for each thread block."""

_REGISTERS_AN_SM = 65_536
_DESCRIBED = r"(mma\.sync|wgmma) for .*?(\d+) threads, (\d+) bytes of shared memory"


@dataclass(frozen=True)
class Sm:
    """What an SM holds at most; shared_bytes: of all its thread blocks."""

    threads: int
    blocks: int
    shared_bytes: int

    @property
    def block_shared_bytes(self) -> int:
        """The most that a thread block can have."""
        return self.shared_bytes - RESERVED_SHARED_BYTES


SMS = {
    "80": Sm(2048, 32, 164 * 1024),
    "86": Sm(1536, 16, 100 * 1024),
    "89": Sm(1536, 24, 100 * 1024),
    "90a": Sm(2048, 32, 228 * 1024),
    "100": Sm(2048, 32, 228 * 1024),
    "120": Sm(1536, 24, 100 * 1024),
}
"""By target; CUDA programming guide, technical specifications per compute capability."""


@dataclass(frozen=True)
class Resources:
    """One kernel on one target. limit: what allows no further thread block."""

    target: str
    kernel: str
    registers: int
    threads: int
    shared_bytes: int
    blocks_an_sm: int
    limit: str


class Describer:
    """What a kernel library says of a call, without tensors."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.paro_last_error.restype = ctypes.c_char_p

    def describe(self, call: CAttention, sm: int) -> str:
        """paro_describe's line.

        Raises:
            ValueError: the library refuses the call; with its message.
        """
        text = ctypes.create_string_buffer(512)
        launch = CLaunch(struct_size=ctypes.sizeof(CLaunch), sm=sm)
        if self._library.paro_describe(
            ctypes.byref(call), ctypes.byref(launch), text, ctypes.c_size_t(len(text))
        ):
            raise ValueError(self._library.paro_last_error().decode())
        return text.value.decode()


def call_of(kernel: str, tokens: int = TOKENS) -> CAttention:
    """A call that a kernel of budget.json computes."""
    words = kernel.split()
    head_dim, block_q, step_keys = map(int, words[1].split("x"))
    numbers = ["s8", "s8"] if "wgmma" in words[0] else words[2].split("-")
    bits = {"f16": 16, "bf16": 16, "s8": 8, "s4": 4}
    fine = words[0].endswith("_fine")
    return CAttention(
        struct_size=ctypes.sizeof(CAttention), batch=1, tokens=tokens, heads=1, kv_heads=1,
        head_dim=head_dim, orders=1, bins=1, block_q=block_q, block_k=step_keys,
        dtype=DTYPE_CODES["bfloat16" if "bf16" in numbers else "float16"],
        qk_bits=bits[numbers[0]], pv_bits=bits[numbers[1]],
        pool_dropped=fine, fine_summaries=fine, smoothing=words[0].endswith("_smoothed"),
    )  # fmt: skip


def generation_of(kernel: str, target: str) -> int:
    """The `sm` that chooses this kernel: on a Hopper, sm_100 asks for mma.sync."""
    if kernel.startswith("sparse_attention_wgmma"):
        return 90
    return 100 if target == "90a" else int(target)


def resources_of(
    describer: Describer, target: str, kernel: str, registers: int, tokens: int = TOKENS
) -> Resources:
    """Of one kernel.

    Raises:
        ValueError: another kernel computes the call, or none does on this target.
    """
    said = describer.describe(call_of(kernel, tokens), generation_of(kernel, target))
    found = re.match(_DESCRIBED, said)
    if found is None or (found[1] == "wgmma") != kernel.startswith("sparse_attention_wgmma"):
        raise ValueError(f"{kernel}: expected to be described, got '{said}'")
    threads, shared_bytes = int(found[2]), int(found[3])
    sm = SMS[target]
    # Registers are given to warps, 256 at a time, in each of the four parts of an SM.
    warps = 4 * (_REGISTERS_AN_SM // 4 // (-(-registers // 8) * 8 * 32))
    fitting = {
        "registers": warps * 32 // threads,
        "shared memory": sm.shared_bytes // (shared_bytes + RESERVED_SHARED_BYTES),
        "threads": sm.threads // threads,
        "blocks": sm.blocks,
    }
    limit = min(fitting, key=lambda name: fitting[name])
    return Resources(target, kernel, registers, threads, shared_bytes, fitting[limit], limit)


def all_resources(library: Path) -> Iterator[Resources]:
    """Of every kernel of stage 2 in budget.json, in its order."""
    describer = Describer(library)
    for target, kernels in budget.load().kernels.items():
        for kernel, measured in kernels.items():
            if kernel.startswith("sparse_attention"):
                yield resources_of(describer, target, kernel, measured.registers)


def table(library: Path) -> str:
    """What resources.csv holds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(Resources))
    writer.writerows(astuple(row) for row in all_resources(library))
    return text.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--library", type=Path, help="the emulated library; default: the built one")
    parser.add_argument("--update", action="store_true")
    arguments = parser.parse_args()
    found = table(arguments.library or library_path("emulated"))
    if arguments.update:
        FILE.write_text(found)
    elif FILE.read_text() != found:
        print(f"error: {FILE}: expected the kernels' resources, got others; {UPDATE}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
