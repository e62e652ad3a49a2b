"""Planted bugs of the wgmma kernels: each changes the shipped source at one place."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.native_builds import PLUGINS

from .emulator_builds import run
from .kernel_library import emulated_kernels_build

STAGE2 = Path("kernels/sparse_attention")

# The kernels with the fewest stages and two blocks a step, of one warpgroup and of two.
_UNIT = """#include "kernels/sparse_attention/sm90/instance.cuh"
namespace paro::kernels::sparse_attention {
Kernel wgmma_kernel(const Selection& s) {
  return s.block_q == 64 ? describe_wgmma<WgmmaVariant<128, 64, 64>>()
                         : describe_wgmma<WgmmaVariant<128, 128, 64>>();
}
}
"""


@dataclass(frozen=True)
class Mutant:
    """`text` of a file of stage 2, which is there once, becomes `becomes`."""

    name: str
    file: str
    text: str
    becomes: str


_CONSUME, _PRODUCE, _RING = "sm90/consume.cuh", "sm90/produce.cuh", "sm90/ring.cuh"
_KERNEL, _SOFTMAX, _TILE = "kernel_sm90.cuh", "sm90/softmax.cuh", "sm90/tile.h"
_CONSUMER_BARRIER = "  ptx::named_barrier_sync(consumers, L::consumer_threads);\n"

MUTANTS = [
    Mutant("none", _RING, "at.parity ^ 1", "at.parity ^ 1"),
    Mutant("wrong full parity", _RING, "full(at.stage), at.parity", "full(at.stage), ~at.parity"),
    Mutant("wrong empty parity", _RING, "at.parity ^ 1", "at.parity"),
    Mutant("parity that never turns", _RING, "parity ^= 1;", ""),
    Mutant("missing empty wait", _PRODUCE, "ring.wait_empty(at);\n    StepExtras", "StepExtras"),
    Mutant(
        "missing full wait", _CONSUME, "at.advance();\n    ring.wait_full(at);", "at.advance();"
    ),
    Mutant("missing fence of the barriers", _RING, "ptx::fence_mbarrier_init();", ""),
    Mutant("too few arrivals", _RING, "if (threadIdx.x % 32 == 0) ptx::mb", "if (false) ptx::mb"),
    Mutant("barriers used before init", _KERNEL, "__syncthreads();  // sync: the mask", "// mask"),
    Mutant("too many arrivals", _RING, "if (threadIdx.x % 32 == 0) ptx::mb", "ptx::mb"),
    Mutant(
        "stage released early",
        _CONSUME,
        "if (previous != stage) ring.release(previous)",
        "ring.release(stage)",
    ),
    Mutant("first stage released twice", _CONSUME, "if (previous != stage) ring", "ring"),
    Mutant(
        "stale stage",
        _CONSUME,
        "issue_products<V, 0>(operands, previous, state);\n  turns.pass",
        "issue_products<V, 0>(operands, stage, state);\n  turns.pass",
    ),
    Mutant("scales of the stage before", _CONSUME, "ring.extras(stage);", "ring.extras(previous);"),
    Mutant("missing wait for the scores", _CONSUME, "wgmma_wait<1>", "wgmma_wait<2>"),
    Mutant("missing wait for the products", _CONSUME, "wgmma_wait<0>", "wgmma_wait<1>"),
    Mutant("missing wgmma fence", _CONSUME, "ptx::wgmma_fence();\n  issue_scores", "issue_scores"),
    Mutant("missing rescale", _CONSUME, "if (weights.moved) rescale(weights, state);", ""),
    Mutant("pending weights not rescaled", _CONSUME, "state.weight[block][row] *= keep", ""),
    Mutant("values of one half alone", _CONSUME, "i % tile_instructions", "0 * tile_instructions"),
    Mutant("rows of the other warpgroup", _CONSUME, "warpgroup * warpgroup_rows", "warpgroup_rows"),
    Mutant("bytes announced too few", _PRODUCE, "(2 * bytes * step.count)", "(bytes * step.count)"),
    Mutant("tail off by one", _PRODUCE, "taken_++ < count_.plain}", "taken_++ <= count_.plain}"),
    Mutant("scales of another block", _PRODUCE, "key_scales_ + index_", "key_scales_ + lane"),
    Mutant("a missing block that weighs", _PRODUCE, "exists ? 0.0f : lowest_logit", "0.0f"),
    Mutant("factor of another row", _SOFTMAX, "row_factors[row + 8]", "row_factors[row]"),
    Mutant("wrong swizzle", _TILE, "value_swizzle = Swizzle::b64", "value_swizzle = Swizzle::b32"),
    Mutant(
        "registers not given back",
        _KERNEL,
        "ptx::registers_decrease<Layout<V>::producer_registers>();",
        "",
    ),
    Mutant("wrong scatter", "store_output.cuh", "token_at(g, q.order, position)", "position"),
    Mutant(
        "output staged over tiles in use",
        _KERNEL,
        "  // sync: everyone has left the tiles, where the output is staged\n" + _CONSUMER_BARRIER,
        "",
    ),
]


def build_mutant(mutant: Mutant, folder: Path) -> Path:
    """The emulated library with the mutant in place of its wgmma kernels."""
    shutil.copytree(PLUGINS / STAGE2, folder / STAGE2)
    source = folder / STAGE2 / mutant.file
    text = source.read_text()
    if text.count(mutant.text) != 1:
        found = text.count(mutant.text)
        raise ValueError(f"{mutant.name}: expected its text once in {mutant.file}, found {found}")
    source.write_text(text.replace(mutant.text, mutant.becomes))
    unit, built = folder / "unit.cpp", emulated_kernels_build()
    unit.write_text(_UNIT)
    compiler = ["g++", "-std=c++20", "-O1", "-fPIC", "-DPARO_EMULATED=1", "-w"]
    includes = [f"-I{folder}", f"-I{PLUGINS}", f"-I{PLUGINS / 'include'}"]
    run([*compiler, *includes, "-c", unit, "-o", folder / "unit.o"])
    objects = (built / "kernels/CMakeFiles/paro_emulated_objects.dir").rglob("*.o")
    others = [path for path in objects if "wgmma" not in path.name]
    library = folder / "mutant.so"
    emulator = built / "emulator" / "libparo_emulator.a"
    run(["g++", "-shared", folder / "unit.o", *others, emulator, "-o", library])
    return library
