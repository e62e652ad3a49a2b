"""Planted bugs of the kernels of version 2 and of tiles of two query blocks: each changes the
shipped source at one place."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from tests.native_builds import PLUGINS

from .emulator_builds import run
from .planted import Mutant

KERNELS = Path("kernels")
_INSTANCE = "sparse_attention/sm80/instance.cuh"

# A mutant's library has one size of the 8-bit kernels. To compile all would take ten times as long.
_ALL_SIZES = """  add_sizes<64, Qk, Pv, Four>(end);
  if constexpr (is_integer(Pv)) add_sizes<128, Qk, Pv, Four>(end);
"""
_ONE_SIZE = "  *end++ = kernel_of<Variant<64, 64, 64, Qk, Pv, Four>>();\n"

# The units of values of 8 bits and of version 2, which replace those of the library.
_UNIT = """#include "kernels/routing/instance.cuh"
#include "kernels/smoothing/instance.cuh"
#include "kernels/sparse_attention/sm80/instance.cuh"
#include "kernels/summaries/instance.cuh"
namespace paro::kernels::sparse_attention {
template std::span<const Kernel> mma_sync_kernels<Number::s8, Number::s8, FourBit::native>();
template <> std::span<const Kernel> mma_sync_kernels<Number::f16, Number::s8, FourBit::native>() {
  return {};
}
template <> std::span<const Kernel> mma_sync_kernels<Number::bf16, Number::s8, FourBit::native>() {
  return {};
}
}
"""


_FINE, _CORRECT = "sparse_attention/sm80/fine_step.cuh", "sparse_attention/sm80/correct_means.cuh"
_SELECT, _ESTIMATE = "routing/select.cuh", "routing/estimate.cuh"
_QUERY, _OUTPUT = (
    "sparse_attention/common/load_query.cuh",
    "sparse_attention/common/store_output.cuh",
)
_WALK = "sparse_attention/common/span_walk.cuh"
_RING, _STEP = "sparse_attention/sm80/ring.cuh", "sparse_attention/sm80/attend_step.cuh"
_KERNEL = "sparse_attention/sm80/kernel.cuh"
_FINE_WALK = "sparse_attention/common/fine_walk.cuh"

MUTANTS = [
    Mutant("none", _SELECT, "int ties = k <= 0", "int ties = k <= 0"),
    Mutant("stale mask", _QUERY, "if (p.routed_mask != nullptr)", "if (false)"),
    Mutant("fine blocks in the coarse sweep", _WALK, "~mask.covered[block * ",
           "~mask.words[block * "),
    Mutant("value scales not folded", _FINE, "x[n][i] *= shares.of_group[n / 2];", ""),
    Mutant("key scale of another group", _FINE, "key_scale[n / 2 * 4 + lane]", "key_scale[lane]"),
    Mutant("groups out of order", _FINE_WALK, "group % 4 * 2 + summary % 2",
           "group % 4 + summary % 2 * 4"),
    Mutant("an absent group that weighs", _FINE, "return exists && (V::query", "return (V::query"),
    Mutant("walk that skips too few", _FINE, "walk.advance(fine_step_groups);",
           "walk.advance(15);"),
    Mutant(
        "missing barrier before a fine step",
        _FINE,
        "      __syncthreads();\n      load(step + fine_ahead);",
        "      load(step + fine_ahead);",
    ),
    Mutant("missing wait for a group", _FINE, "ptx::cp_async_wait<fine_ahead - 1>();", ""),
    Mutant("flag ignored", _OUTPUT, "p.correction == nullptr || __ldg(p", "__ldg(p"),
    Mutant("rows that attend nothing corrected", _OUTPUT, " && inverse[row] != 0.0f) x", ") x"),
    Mutant("dense part without listed blocks", _CORRECT,
           "(mixed.out[0][d][i] * of_mixed + rest", "(rest"),
    Mutant("mask of another row", _CORRECT, "block = lane_block + row * 8;\n    const bool exists",
           "block = lane_block;\n    const bool exists"),
    Mutant("missing barrier in the sweep", _CORRECT,
           "      __syncthreads();\n      start(step + ahead);",
           "      start(step + ahead);"),
    Mutant("ties to the higher block", _SELECT, "equal & (~equal + 1)",
           "equal & ~(equal - 1) << 1"),
    Mutant("one block too few", _SELECT, "(ranks, least | bit) >= k", "(ranks, least | bit) > k"),
    Mutant("exact blocks chosen again", _SELECT, "|| (__ldg(mask", "|| (0u & __ldg(mask"),
    Mutant("summary not subtracted", _ESTIMATE, "pooled ? -ptx", "pooled ? ptx"),
    Mutant("low part of the output lost", _ESTIMATE,
           "        multiply_channels<IsBfloat16>(c[f], e.low[j], b);\n", ""),
    # Two query blocks in a thread block.
    Mutant("one mask for both query blocks", _RING, "mask.has(span, block)", "mask.has(span)"),
    Mutant("summaries of the other query block", _STEP, "absent[own_block<V>()], zero",
           "absent[0], zero"),
    Mutant("fine blocks of the other query block", _FINE, "is_fine(i) ?", "is_fine(0) ?"),
    Mutant("correction of the other query block", _OUTPUT, "min(q.index + block,",
           "min(q.index,"),
    Mutant("a skipping warp misses a barrier", _KERNEL,
           "await_tiles<V>(ring, step, load);\n    attend_step<V, true>",
           "if (attends_span<V, true>(ring.extras(step))) "
           "await_tiles<V>(ring, step, load);\n    attend_step<V, true>"),
    Mutant("odd last query block left out", _QUERY, "if (q.index % QueryBlocks != 0) return",
           "if (q.index % QueryBlocks != 0 || q.index + QueryBlocks > g.query_blocks) return"),
]  # fmt: skip


def build_mutant(
    mutant: Mutant, folder: Path, others: Iterable[Path], unit_source: str = _UNIT
) -> Path:
    """The emulated library with the mutant in place of its kernels.

    Args:
        folder: for its sources and the library.
        others: what else is linked: the objects of the library but for those of the unit, and the
            emulator.
        unit_source: the mutant's unit, which replaces objects of the library.
    """
    shutil.copytree(PLUGINS / KERNELS, folder / KERNELS)
    mutant.plant(folder / KERNELS)
    instance = folder / KERNELS / _INSTANCE
    instance.write_text(instance.read_text().replace(_ALL_SIZES, _ONE_SIZE))
    unit = folder / "unit.cpp"
    unit.write_text(unit_source)
    compiler = ["g++", "-std=c++20", "-O1", "-fPIC", "-DPARO_EMULATED=1", "-w"]
    includes = [f"-I{folder}", f"-I{PLUGINS}", f"-I{PLUGINS / 'include'}"]
    run([*compiler, *includes, "-c", unit, "-o", folder / "unit.o"])
    library = folder / "mutant.so"
    # As the library itself: with names of its own, several copies live in one process.
    exports = f"-Wl,--version-script={PLUGINS / 'cmake' / 'exports.map'}"
    run(["g++", "-shared", exports, folder / "unit.o", *others, "-o", library])
    return library
