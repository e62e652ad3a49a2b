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
_TILES, _STORE = "sm90/tiles.cuh", "sm90/store_rows.cuh"
_STAGE1 = "../reorder_quantize/kernel.cuh"

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
    Mutant("barriers used before init", _KERNEL, "__syncthreads();  // sync: the barr", "// barr"),
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
    Mutant("rows of the other warpgroup", _CONSUME, "warpgroup * (warpgroup_rows",
           "(warpgroup_rows"),
    Mutant("bytes announced too few", _PRODUCE, "(2 * bytes * step.count)", "(bytes * step.count)"),
    Mutant("tail off by one", _PRODUCE, "taken_++ < count_.plain}", "taken_++ <= count_.plain}"),
    Mutant("scales of another block", _PRODUCE, "prepared_.key_scale + block",
           "prepared_.key_scale + lane"),
    Mutant("a missing block that weighs", _PRODUCE, "!exists ? lowest_logit :", "!exists ? 0.0f :"),
    Mutant("summaries that weigh as tokens", _PRODUCE, "group >= 0 ? summary_shift",
           "false ? 0.0f"),
    Mutant("the last summary weighs in full", _PRODUCE, "extras.last_key = i * V",
           "[[maybe_unused]] int unused = i * V"),
    Mutant("an absent key that weighs", _PRODUCE, "is_attended ? 0xFF : 0;", "0xFF;"),
    Mutant("an absent key as the maximum", _PRODUCE, "is_attended ? 0 : absent_penalty", "0"),
    Mutant("the shift not in the codes", _SOFTMAX, "if (!plain) offset[row] +=",
           "if (false) offset[row] +="),
    Mutant("the last summary of another key", _SOFTMAX, "column == i / 4 * 8 + j",
           "column == i + j"),
    Mutant("factor of another row", _SOFTMAX, "row_factors[row + 8 * i]", "row_factors[row]"),
    Mutant(
        "wrong swizzle", _VARIANT, "value_swizzle = Swizzle::b64", "value_swizzle = Swizzle::b32"
    ),
    Mutant(
        "registers not given back",
        _KERNEL,
        "ptx::registers_decrease<Layout<V>::producer_registers>();",
        "",
    ),
    Mutant("wrong scatter", _STORE, "tile.token[row]", "position"),
    Mutant("words of another lane stored", _STORE, "is_upper ? words[i] : words[i + distance];",
           "words[i];"),
    Mutant("tiles counted on from the call before", _STAGE1, "*p.tiles_taken = 0;", ";"),
    Mutant("a tile that no block takes", _TILES, "return gridDim.x +", "return gridDim.x + 1 +"),
    Mutant("parity of the slots not carried over", _KERNEL, "    LoopState<V> state;\n",
           "    at.parity = 0;\n    LoopState<V> state;\n"),
    Mutant("place of the producer not carried over", _KERNEL,
           "    if (tile.work.index < 0) return;\n",
           "    if (tile.work.index < 0) return;\n    at = {};\n"),
    Mutant("missing wait for the tile left", _TILES, "ring.wait_left(number);", ""),
    Mutant("missing wait for the tile found", _TILES, "ring.wait_published(number);", ""),
    Mutant("missing wait for the queries", _KERNEL, "ring.wait_query_full(number);", ""),
    Mutant("queries overwritten while read", _TILES, "ring.wait_query_empty(number);", ""),
    Mutant("missing wait for the copies of queries", _TILES, "ptx::cp_async_wait_all();", ""),
    Mutant("queries of other channels", _TILES, "equalizer[first_channel + i]", "equalizer[i]"),
    Mutant("last slot kept", _ATTEND, "    ring.release(previous);\n", ""),
    Mutant("slot of the end kept", _ATTEND, "ring.release(at.slot);  // the end", ""),
    Mutant("masks of the tile before", _KERNEL, "__syncwarp();  // sync: the masks are written",
           ""),
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
    Mutant("products before the groups lost", _ATTEND, "if (previous != at.slot) {",
           "if (previous != at.slot && kind != StepKind::fine) {"),
    Mutant("products of the groups lost", _FINE, "  add_last_products<F>",
           "  if (false) add_last_products<F>"),
    Mutant("turn kept by the last products", _CONSUME, "turns.pass();\n  accumulate<V, 0>",
           "accumulate<V, 0>"),
    Mutant("slots of the other rows kept", _CONSUME, "ring.release(at.slot);", ""),
    Mutant("products that hold a slot", _CONSUME, "if (pends && at.slot == previous) {",
           "if (false) {"),
    Mutant("weights of added products kept", _CONSUME, "state.weight[0][row] = 0.0f;", ""),
    Mutant("weights of the other rows", _CONSUME, "turns.warpgroup % V::query_blocks", "0"),
    Mutant("steps of the other rows", _RING, "attending >> warpgroup",
           "attending >> (1 - warpgroup)"),
    Mutant("mask of the first rows for both", _KERNEL,
           "min(block, g.query_blocks - 1 - tile.work.index) * g.mask_words", "0"),
    Mutant("groups of the other rows", _GATHER, "attending = 1u << i", "attending = 2u >> i"),
]  # fmt: skip


def build_mutant(mutant: Mutant, folder: Path) -> Path:
    """The emulated library with the mutant in place of its wgmma kernels, or of its stage 1."""
    built, replaced = emulated_kernels_build(), ["wgmma"]
    shutil.copytree(PLUGINS / "kernels", folder / "kernels")
    mutant.plant(folder / STAGE2)
    instance = folder / STAGE2 / _INSTANCE
    instance.write_text(_OTHER_KERNELS.sub("", instance.read_text()))
    unit = folder / "unit.cpp"
    unit.write_text(_UNIT)
    units = [unit]
    if mutant.file == _STAGE1:
        replaced.append("reorder_quantize")
        units.append(built / "kernels/instances/reorder_quantize.cpp")
    compiler = ["g++", "-std=c++20", "-O1", "-fPIC", "-DPARO_EMULATED=1", "-w"]
    includes = [f"-I{folder}", f"-I{PLUGINS}", f"-I{PLUGINS / 'include'}"]
    compiled = [folder / f"{source.stem}.o" for source in units]
    for source, target in zip(units, compiled, strict=True):
        run([*compiler, *includes, "-c", source, "-o", target])
    objects = (built / "kernels/CMakeFiles/paro_emulated_objects.dir").rglob("*.o")
    others = [path for path in objects if not any(word in path.name for word in replaced)]
    library = folder / "mutant.so"
    emulator = built / "emulator" / "libparo_emulator.a"
    # As the library itself: with names of its own, several copies live in one process.
    exports = f"-Wl,--version-script={PLUGINS / 'cmake' / 'exports.map'}"
    run(["g++", "-shared", exports, *compiled, *others, emulator, "-o", library])
    return library
