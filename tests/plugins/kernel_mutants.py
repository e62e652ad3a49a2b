"""Planted bugs of the wgmma kernels: each changes the shipped source at one place."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.native_builds import PLUGINS

from .emulator_builds import run
from .kernel_library import emulated_kernels_build
from .planted import Mutant

STAGE2 = Path("kernels/sparse_attention")

# A mutant's library has only the kernels with the fewest slots and two blocks a step, of one
# consumer warpgroup and of two. To compile all kernels would take four times as long.
_INSTANCE = "sm90/instance.cuh"
_OTHER_KERNELS = re.compile(r"kernel_of<Variant<(?!128, \d+, 64>)[\d, ]+>>\(\),\s*")
_UNIT = f'#include "kernels/sparse_attention/{_INSTANCE}"\n'


_CONSUME, _PRODUCE, _RING = "sm90/consume.cuh", "sm90/produce.cuh", "sm90/ring.cuh"
_KERNEL, _SOFTMAX, _VARIANT = "sm90/kernel.cuh", "sm90/softmax.cuh", "sm90/variant.h"
_ATTEND, _GATHER, _FINE = "sm90/attend.cuh", "sm90/gather.cuh", "sm90/fine_step.cuh"
_BEFORE_OUTPUT = "  // sync: every consumer has left the tiles, which the output overwrites\n"
_CONSUMER_BARRIER = "  ptx::named_barrier_sync(consumers, V::compute_threads);\n"

MUTANTS = [
    Mutant("none", _RING, "at.parity ^ 1", "at.parity ^ 1"),
    Mutant("wrong full parity", _RING, "full(at.slot), at.parity", "full(at.slot), ~at.parity"),
    Mutant("wrong empty parity", _RING, "at.parity ^ 1", "at.parity"),
    Mutant("parity that never turns", _RING, "parity ^= 1;", ""),
    Mutant("missing empty wait", _PRODUCE, "ring.wait_empty(at);\n    StepExtras", "StepExtras"),
    Mutant(
        "missing full wait", _CONSUME, "at.advance();\n  ring.wait_full(at);", "at.advance();"
    ),
    Mutant("missing fence of the barriers", _RING, "ptx::fence_mbarrier_init();", ""),
    Mutant("too few arrivals", _RING, "if (threadIdx.x % 32 == 0) ptx::mb", "if (false) ptx::mb"),
    Mutant("barriers used before init", _KERNEL, "__syncthreads();  // sync: the mask", "// mask"),
    Mutant("too many arrivals", _RING, "if (threadIdx.x % 32 == 0) ptx::mb", "ptx::mb"),
    Mutant(
        "slot released early",
        _CONSUME,
        "if (previous != slot) ring.release(previous)",
        "ring.release(slot)",
    ),
    Mutant("first slot released twice", _CONSUME, "if (previous != slot) ring", "ring"),
    Mutant(
        "stale slot",
        _CONSUME,
        "issue_products<V, 0>(operands, slot_offset<V>(previous), state);\n  turns.pass",
        "issue_products<V, 0>(operands, slot_offset<V>(slot), state);\n  turns.pass",
    ),
    Mutant("scales of the slot before", _CONSUME, "ring.extras(slot);", "ring.extras(previous);"),
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
    Mutant(
        "wrong swizzle", _VARIANT, "value_swizzle = Swizzle::b64", "value_swizzle = Swizzle::b32"
    ),
    Mutant(
        "registers not given back",
        _KERNEL,
        "ptx::registers_decrease<Layout<V>::producer_registers>();",
        "",
    ),
    Mutant(
        "wrong scatter", "common/store_output.cuh", "token_at(g, q.order, position)", "position"
    ),
    Mutant(
        "output written over tiles in use",
        _KERNEL,
        "  // sync: every consumer has left the tiles, which the output overwrites\n"
        + _CONSUMER_BARRIER,
        "",
    ),
    Mutant("groups of another quad", _GATHER, "static_cast<int>(quad * 4 + in_quad)",
           "static_cast<int>(in_quad)"),
    Mutant("values of another quad", _GATHER, "(part, quad)", "(part, 0)"),
    Mutant("groups skipped", _GATHER, "walk.advance(fine_step_groups);", "walk.advance(17);"),
    Mutant("an absent group that weighs", _GATHER, "exists ? min(", "true ? min("),
    Mutant("missing wait for a group", _GATHER, "ptx::cp_async_wait<1>();", ""),
    Mutant("missing wait for the last group", _GATHER, "ptx::cp_async_wait_all();", ""),
    Mutant("missing empty wait of groups", _GATHER, "ring.wait_empty(at);", ""),
    Mutant("shares not in the codes", _FINE, " + log2_share[i / 8]", ""),
    Mutant("shares left in the sums", _FINE, "inverse[i / 8]", "1.0f"),
    Mutant("key scale of another group", _FINE, "scales[i / 8]", "scales[0]"),
    Mutant("products before the groups lost", _ATTEND, "if (pends || (", "if ((false) || ("),
    Mutant("products of the groups lost", _FINE, "  add_last_products<F>",
           "  if (false) add_last_products<F>"),
    Mutant("slot kept before the groups", _ATTEND, "if (pends) ring.release(previous);", ""),
    Mutant("turn kept before the groups", _ATTEND, "(previous), has_fine, state",
           "(previous), false, state"),
    Mutant("slots of the other rows kept", _CONSUME, "ring.release(at.slot);", ""),
    Mutant("products that hold a slot", _CONSUME, "if (pends && at.slot == previous) {",
           "if (false) {"),
    Mutant("weights of added products kept", _CONSUME, "state.weight[0][row] = 0.0f;", ""),
    Mutant("weights of the other rows", _CONSUME, "turns.warpgroup % V::query_blocks", "0"),
    Mutant("steps of the other rows", _RING, "attending >> warpgroup",
           "attending >> (1 - warpgroup)"),
    Mutant("mask of the first rows for both", _KERNEL,
           "min(block, g.query_blocks - 1 - q.index) * g.mask_words", "0"),
    Mutant("groups of the other rows", _GATHER, "attending = 1u << i", "attending = 2u >> i"),
]  # fmt: skip


def build_mutant(mutant: Mutant, folder: Path) -> Path:
    """The emulated library with the mutant in place of its wgmma kernels."""
    shutil.copytree(PLUGINS / STAGE2, folder / STAGE2)
    mutant.plant(folder / STAGE2)
    instance = folder / STAGE2 / _INSTANCE
    instance.write_text(_OTHER_KERNELS.sub("", instance.read_text()))
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
