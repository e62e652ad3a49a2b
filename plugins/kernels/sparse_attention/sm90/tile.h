// Which wgmma kernels exist, and how a thread block of one is laid out.
#pragma once

#include "kernels/sparse_attention/variant.h"
#include "ptx/swizzle.h"

namespace paro::kernels::sparse_attention {

// 8-bit Q, K and V. A step takes 128 keys: one key block or two. P's codes are against the maximum
// of their key block, so that each has a P V of its own; all else is shared.
template <int HeadDim, int BlockQ, int BlockK>
struct WgmmaVariant {
  static constexpr int head_dim = HeadDim;
  static constexpr int block_q = BlockQ;
  static constexpr int block_k = BlockK;
  // Two blocks keep more registers busy than two thread blocks leave for one warpgroup each.
  static constexpr int step_keys = HeadDim == 128 && BlockQ == 64 ? BlockK : 128;
  static constexpr int blocks_a_step = step_keys / BlockK;
  static constexpr Number qk = Number::s8, pv = Number::s8;
  static constexpr bool unpacks_keys = false, unpacks_values = false;
  static_assert(HeadDim == 64 || HeadDim == 128, "rows must be as long as a swizzle pattern's");
  static_assert(BlockQ == 64 || BlockQ == 128, "whole warpgroups of 64 rows");
  static_assert(BlockK == 64 || BlockK == 128, "whole steps");
};

// What wgmma gives a warp.
template <int HeadDim, int BlockQ, int BlockK>
constexpr int rows_per_warp<WgmmaVariant<HeadDim, BlockQ, BlockK>> = 16;

namespace wgmma {

constexpr int warpgroup_threads = 128, warpgroup_rows = 64;

// Ids of named barriers; 0 is __syncthreads.
enum class NamedBarrier : int { consumers = 1, first_turn = 2, second_turn = 3 };

// Which loop of the consumers takes a step.
enum class StepKind : int32_t {
  plain,    // every key is one token
  weighed,  // `weight` says what a key stands for
  end,      // no step: the walk is over
};

// What accompanies a stage's tiles.
template <class V>
struct alignas(16) StepExtras {
  float key_scale[V::blocks_a_step];
  float value_scale[V::blocks_a_step];
  float shift[V::blocks_a_step];  // of a block's logits: 0, or lowest_logit where it is absent
  StepKind kind;
  alignas(8) float weight[V::step_keys];  // log2 of the tokens of a key; lowest_logit: absent
};

// Bytes, offsets and register budgets of a thread block.
template <class V>
struct Layout {
  // Warpgroups that compute; then one of which a single warp stays, to fetch.
  static constexpr int consumers = V::block_q / warpgroup_rows;
  static constexpr int consumer_threads = consumers * warpgroup_threads;
  static constexpr int threads = consumer_threads + warpgroup_threads;
  static constexpr int blocks_an_sm = consumers == 2 ? 1 : 2;

  // A consumer lane holds S (64), P V (D / 2), the output (D / 2) and P (16).
  static constexpr int producer_registers = 24;
  static constexpr int consumer_registers = consumers == 2 ? 240 : 232;
  static_assert(blocks_an_sm * warpgroup_threads *
                        (consumers * consumer_registers + producer_registers) <=
                    65536,
                "the register file of an SM");

  static constexpr Swizzle query_key_swizzle = V::head_dim == 128 ? Swizzle::b128 : Swizzle::b64;
  static constexpr Swizzle value_swizzle = Swizzle::b64;
  static constexpr int query_bytes = V::block_q * V::head_dim;
  static constexpr int block_bytes = V::block_k * V::head_dim;  // of K, and of V
  static constexpr int value_tile_bytes = value_tile_keys * V::head_dim;
  static constexpr int stage_bytes = 2 * V::blocks_a_step * block_bytes;

  // Consumers hold two stages (K of a step while P V of the step before runs); the others hide the
  // way from L2. An SM has 228 KB of shared memory, 1 KB of it kept for each thread block.
  static constexpr int room = consumers == 2 ? 200 * 1024 : 104 * 1024;
  static constexpr int most_stages = 8;
  static constexpr int stages = (room - query_bytes) / stage_bytes < most_stages
                                    ? (room - query_bytes) / stage_bytes
                                    : most_stages;
  static_assert(stages >= 3, "two in use and one on its way");

  static constexpr int query_offset = 0;
  static constexpr int stage_offset = query_bytes;
  // The output is staged where the tiles were.
  static constexpr int output_offset = stage_offset;
  static_assert(TileSize<V>::output_bytes <= stages * stage_bytes, "the output fits there");
  static constexpr int extras_offset = stage_offset + stages * stage_bytes;  // StepExtras [stages]
  static constexpr int extras_bytes = static_cast<int>(sizeof(StepExtras<V>));
  static constexpr int factor_offset = extras_offset + stages * extras_bytes;  // float [block_q]
  static constexpr int full_offset = factor_offset + V::block_q * 4;           // uint64 [stages]
  static constexpr int empty_offset = full_offset + stages * 8;                // uint64 [stages]
  static constexpr int work_offset = empty_offset + stages * 8;                // QueryTile
  static constexpr int work_bytes = 64;
  static constexpr int mask_offset = work_offset + work_bytes;  // uint32 [mask words]
  static_assert(extras_bytes % 16 == 0 && query_bytes % tile_alignment == 0 &&
                    value_tile_bytes % tile_alignment == 0,
                "swizzled tiles start at whole periods");

  static constexpr size_t shared_bytes(int mask_words) {
    return static_cast<size_t>(mask_offset) + static_cast<size_t>(mask_words) * 4;
  }
};

}  // namespace wgmma
}  // namespace paro::kernels::sparse_attention
