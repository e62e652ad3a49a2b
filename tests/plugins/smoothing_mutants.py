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
_QUERY, _LOAD, _STEP = (
    f"sparse_attention/sm80/smoothed_{part}.cuh" for part in ("query", "load", "step")
)
_BIASES, _MEANS = "smoothing/key_biases.cuh", "smoothing/mean_queries.cuh"
_CORRECT, _FINE = "sparse_attention/sm80/correct_means.cuh", "summaries/fine_groups.cuh"

_AHEAD = "      if (place + 1 < left)"

MUTANTS = [
    Mutant("none", _BIASES, "first += 16", "first += 16"),
    Mutant("mean not subtracted from keys", _STAGE1,
           "rows[i].x[c] = __fadd_rn(rows[i].x[c], -mean.x[c]);", ";"),
    Mutant("mean not subtracted from queries", _QUERY,
           "x.x[i] = __fadd_rn(x.x[i], -mean.x[i]);", ";"),
    Mutant("bias of another query block", _LOAD, "p.bias + row *", "p.bias + (row ^ 1) *"),
    Mutant("bias of another key block", _LOAD, "sources.key_scale : sources.bias)",
           "sources.key_scale : sources.bias + V::step_keys)"),
    Mutant("bias of another key", _BIASES, "column * 4 + n % 2 * 2", "column * 4"),
    Mutant("spans listed in one place", _LOAD, "__popc(bits & ((1u << lane) - 1))", "0"),
    Mutant("mean of another block", _STEP, "sources.mean + int64_t{mine}",
           "sources.mean + int64_t{mine ^ 1}"),
    Mutant("offsets of another step", _STAGE2, "static_cast<uint32_t>(place) *", "0u *"),
    Mutant("value scale of another step", _STAGE2, "value_scale[place]", "value_scale[0]"),
    Mutant("offset of another row", _STEP, "offsets[a * 2 + 1]};", "offsets[a * 2]};"),
    Mutant("scale of another key", _STEP, "lane_keys[n * 4]", "lane_keys[0]"),
    Mutant("sign of the rotation ignored", "rotate.cuh", "(rotation.negative >> i & 1u) << 31",
           "0u"),
    Mutant("rotation of every head", "rotate.cuh", "__ldg(signs) != 0, 0u", "true, 0u"),
    Mutant("a query mean that is not rotated", _MEANS, "rotate<D>(Rotation::of",
           "(void)(Rotation::of"),
    Mutant("absent keys with a bias", _BIASES, "left > 1 ?", "true ?"),
    Mutant("plan's mask instead of the chosen one", _BIASES, "if (p.routed_mask != nullptr)",
           "if (false)"),
    Mutant("missing barrier before a step", _STAGE2, f"      __syncthreads();\n{_AHEAD}", _AHEAD),
    Mutant("missing wait for a step", _STAGE2,
           "slot = place % 2;\n      ptx::cp_async_wait_all();", "slot = place % 2;"),
    Mutant("correction without offsets", _CORRECT,
           "block_offsets<C>(attention, unit.index, block, query_tile, lane_factors, zero,"
           " offset);", ""),
    Mutant("fine keys that are not rotated", _FINE, "      rotate<D>(rotation, c);\n", ""),
]  # fmt: skip
