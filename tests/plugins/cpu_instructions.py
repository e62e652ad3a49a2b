"""Instructions the CPU backend executes for one score, and the file that records them.

A score is one element of Q K^T in a block that is attended. Counted as the slope between two
densities, so that stage 1 and what a query block costs by itself drop out. Callgrind counts where
Valgrind knows the instruction set; elsewhere the call is stepped through, which is as exact.

`python -m tests.plugins.cpu_instructions BUILD_DIRECTORY` records this machine's counts.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.plugins.cpu_builds import build, run
from tests.plugins.cpu_instruction_sets import VARIABLE, of_this_processor

RECORD = Path(__file__).parent / "cpu_instructions.json"
STEPPED = ("avx2_vnni", "avx512_vnni")
"""Valgrind 3.19 does not know them."""


@dataclass(frozen=True)
class Counted:
    """One count: an instruction set, D, and the bits of both products."""

    isa: str
    head_dim: int
    bits: int

    @property
    def name(self) -> str:
        """The call's key in the record."""
        return f"{self.isa} D={self.head_dim} {self.bits} bits"

    @property
    def by_stepping(self) -> bool:
        """Whether Valgrind cannot count it."""
        return self.isa in STEPPED


# Stepping takes about 20 us an instruction: few of those, and none of floats, which AVX2 covers.
COUNTS = (
    *(Counted(isa, d, bits) for isa in ("generic", "avx2") for d in (64, 128) for bits in (16, 8)),
    Counted("avx2_vnni", 64, 8),
    Counted("avx512_vnni", 64, 8),
)


def compiler() -> str:
    """The compiler with its major version, because counts differ between compilers."""
    return "g++ " + run("g++", "-dumpversion").strip().split(".")[0]


def instructions_per_score(counted: Counted, programs: Path) -> float:
    """Counted now, by the programs in a build directory."""
    tokens = 256 if counted.by_stepping else 1024
    (many, many_scores), (few, few_scores) = (
        _count(counted, programs, "scores", tokens, density) for density in (1.0, 0.5)
    )
    return (many - few) / (many_scores - few_scores)


def instructions_per_fine_block(counted: Counted, programs: Path) -> float:
    """Of one row of a query block, counted now, likewise."""
    (many, many_blocks), (few, few_blocks) = (
        _count(counted, programs, "fine blocks of a row", 1024, 0.2, "fine", share)
        for share in (0.8, 0.1)
    )
    return (many - few) / (many_blocks - few_blocks)


def _count(
    counted: Counted, programs: Path, unit: str, tokens: int, density: float, *options: object
) -> tuple[int, int]:
    """Instructions and units of one call."""
    program = programs / "paro_cpu_one_call"
    words: list[object] = [program, tokens, counted.head_dim, counted.bits, density, *options]
    if counted.by_stepping:
        output = run(*words, "step", **{VARIABLE: counted.isa})
        return _number("instructions", output), _number(unit, output)
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "callgrind"
        output = run(
            "valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}",
            "--toggle-collect=paro_forward", *words, **{VARIABLE: counted.isa},
        )  # fmt: skip
        return _number("summary", profile.read_text()), _number(unit, output)


def _number(label: str, text: str) -> int:
    found = re.search(rf"^{label}: (\d+)$", text, re.MULTILINE)
    assert found is not None, text[-500:]
    return int(found[1])


def main(directory: Path) -> None:
    """Record the counts of this machine's instruction sets; those of others stay as they are."""
    programs = build(directory, "one_call")
    record = json.loads(RECORD.read_text())
    if record["compiler"] != compiler():
        raise SystemExit(f"{RECORD}: recorded with {record['compiler']}, this is {compiler()}")
    here = of_this_processor()
    record["per score"] |= {
        counted.name: round(instructions_per_score(counted, programs), 3)
        for counted in COUNTS
        if counted.isa in here
    }
    RECORD.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
