// The k key blocks with the largest estimated errors join the mask row of a query block. One warp
// for each.
//
// Grid: x four query blocks, y head of the launch.
#pragma once

#include "kernels/routing/step.cuh"
#include "kernels/summaries/mean_queries.cuh"

namespace paro::kernels::routing {

// Ranks key blocks by integers: 0 for a block that cannot be chosen; else the bits of its error,
// which is not negative, plus 1. What is not a number is the largest.
struct Ranks {
  const float* error;   // [NK]
  const uint32_t* mask;  // [W], exact anyway
  int blocks;            // that contain a token

  __device__ __forceinline__ uint32_t of(int block) const {
    if (block >= blocks || (__ldg(mask + block / 32) >> (block % 32) & 1u) != 0) return 0;
    const uint32_t bits = __float_as_uint(error[block]);
    return min(bits & 0x7FFFFFFFu, 0x7F800000u) + 1;
  }
};

// How many blocks rank at or above `rank`, by a whole warp.
DEVICE_FN int count_at_least(const Ranks& ranks, uint32_t rank) {
  int count = 0;
  for (int block = static_cast<int>(threadIdx.x % 32); block < ranks.blocks; block += 32) {
    count += ranks.of(block) >= rank ? 1 : 0;
  }
  return __reduce_add_sync(~0u, count);
}

__global__ void __launch_bounds__(threads) select_blocks(const RoutingParams p) {
  const Geometry& g = p.geometry;
  const int index = static_cast<int>(blockIdx.y), lane = static_cast<int>(threadIdx.x % 32);
  const int query_block = static_cast<int>(blockIdx.x * warps + threadIdx.x / 32);
  if (query_block >= g.query_blocks) return;
  const summaries::LaunchHead at = summaries::head_at(g, index);
  const int bin = min(max(__ldg(p.plan.mask_bin + at.unit.sample), 0), g.bins - 1);
  const int64_t plan_row =
      (static_cast<int64_t>(bin) * g.heads + at.head) * g.query_blocks + query_block;
  const int64_t row = static_cast<int64_t>(index) * g.query_blocks + query_block;
  const int length = length_of(g, p.plan, at.unit.sample);
  const Ranks ranks{p.means.error + row * g.key_blocks,
                    reinterpret_cast<const uint32_t*>(p.plan.block_mask) + plan_row * g.mask_words,
                    query_block * g.block_q < length ? (length + g.block_k - 1) / g.block_k : 0};
  const int k = __ldg(p.plan.dynamic_blocks + bin * g.heads + at.head);
  // The k-th largest rank, bit by bit. With fewer than k blocks to choose from it is 0.
  uint32_t least = 0;
  if (k > 0) {
    for (uint32_t bit = 1u << 30; bit != 0; bit >>= 1) {
      if (count_at_least(ranks, least | bit) >= k) least |= bit;
    }
  }
  // Of blocks of that rank, those with the lowest indices.
  int ties = k <= 0 ? 0 : k - count_at_least(ranks, least + 1);
  for (int word = 0; word < g.mask_words; word++) {
    const uint32_t rank = k <= 0 ? 0 : ranks.of(word * 32 + lane);
    uint32_t chosen = __ballot_sync(~0u, rank > least);
    uint32_t equal = __ballot_sync(~0u, rank == least && rank != 0);
    for (; ties > 0 && equal != 0; ties--, equal &= equal - 1) chosen |= equal & (~equal + 1);
    if (lane == 0) p.mask[row * g.mask_words + word] = ranks.mask[word] | chosen;
  }
}

}  // namespace paro::kernels::routing
