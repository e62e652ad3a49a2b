"""Planted bugs of the kernels of smoothed 4-bit query x key: each changes the shipped source at one
place."""

from __future__ import annotations

from .planted import Mutant

UNIT = """#include "kernels/reorder_quantize/instance.cuh"
#include "kernels/routing/instance.cuh"
#include "kernels/smoothing/instance.cuh"
#include "kernels/sparse_attention/sm80/instance.cuh"
#include "kernels/summaries/instance.cuh"
namespace paro::kernels {
namespace sparse_attention {
template std::span<const Kernel> mma_sync_kernels<Number::s4, Number::s8, FourBit::native>();
template <> std::span<const Kernel> mma_sync_kernels<Number::s4, Number::f16, FourBit::native>() {
  return {};
}
template <> std::span<const Kernel> mma_sync_kernels<Number::s4, Number::bf16, FourBit::native>() {
  return {};
}
}
namespace reorder_quantize {
template Stage stage_of<Number::f16, 64>(const Selection&);
template <> Stage stage_of<Number::f16, 128>(const Selection&) { return {}; }
template <> Stage stage_of<Number::bf16, 64>(const Selection&) { return {}; }
template <> Stage stage_of<Number::bf16, 128>(const Selection&) { return {}; }
}
}
"""
"""What replaces the objects of `OBJECTS` in a mutant's library: one size of the kernels."""

OBJECTS = ("keys_s4_native", "reorder_quantize", "version_2")

_STAGE1, _STAGE2 = "reorder_quantize/smoothed.cuh", "sparse_attention/sm80/smoothed.cuh"
_BIASES, _MEANS = "smoothing/key_biases.cuh", "smoothing/mean_queries.cuh"
_CORRECT, _FINE = "sparse_attention/sm80/correct_means.cuh", "summaries/fine_groups.cuh"

_BARRIER = "    __syncthreads();\n    if (place == 0)"

MUTANTS = [
    Mutant("none", _BIASES, "first += 16", "first += 16"),
    Mutant("mean not subtracted from keys", _STAGE1,
           "rows[i].x[c] = __fadd_rn(rows[i].x[c], -mean.x[c]);", ";"),
    Mutant("mean not subtracted from queries", _STAGE2,
           "x.x[i] = __fadd_rn(x.x[i], -mean.x[i]);", ";"),
    Mutant("bias of another query block", _STAGE2, "p.bias + row *", "p.bias + (row ^ 1) *"),
    Mutant("bias of another key block", _STAGE2, "sources.bias - scale_copies * 4",
           "sources.bias - scale_copies * 4 + V::step_keys"),
    Mutant("mean of another block", _STAGE2, "sources.mean + int64_t{mine}",
           "sources.mean + int64_t{mine ^ 1}"),
    Mutant("offsets of another step", _STAGE2, "shared.offsets[warp][place]",
           "shared.offsets[warp][0]"),
    Mutant("offset of another row", _STAGE2, "offsets[a * 2 + 1]};", "offsets[a * 2]};"),
    Mutant("scale of another key", _STAGE2, "factors.scale[n * 4 + lane]", "factors.scale[lane]"),
    Mutant("sign of the rotation ignored", "rotate.cuh", "(rotation.negative >> i & 1u) << 31",
           "0u"),
    Mutant("rotation of every head", "rotate.cuh", "__ldg(signs) != 0, 0u", "true, 0u"),
    Mutant("a query mean that is not rotated", _MEANS, "rotate<D>(Rotation::of",
           "(void)(Rotation::of"),
    Mutant("absent keys with a bias", _BIASES, "left > 1 ?", "true ?"),
    Mutant("plan's mask instead of the chosen one", _BIASES, "if (p.routed_mask != nullptr)",
           "if (false)"),
    Mutant("missing barrier before a step", _STAGE2, _BARRIER, "    if (place == 0)"),
    Mutant("missing wait for a step", _STAGE2,
           "place = step % offset_blocks;\n    ptx::cp_async_wait_all();",
           "place = step % offset_blocks;"),
    Mutant("correction without offsets", _CORRECT,
           "block_offsets<C>(attention, unit.index, block, query_tile, lane_factors, zero,"
           " offset);", ""),
    Mutant("fine keys that are not rotated", _FINE, "      rotate<D>(rotation, c);\n", ""),
]  # fmt: skip
