// Which wgmma kernels exist, and the sizes and register budgets that follow.
#pragma once

#include "kernels/params.h"
#include "kernels/sparse_attention/common/store_output.cuh"
#include "ptx/swizzle.h"

namespace paro::kernels::sparse_attention::sm90 {

// 8-bit Q, K and V. A span of the walk is a key block. A step takes 128 keys, one span or two. The
// codes of P are relative to the maximum of their key block, so each block has a P V of its own;
// everything else is shared.
//
// A thread block takes 128 rows, one query block or two of 64 rows with masks of their own. It loads
// each key block that either attends once, and each consumer warpgroup, which has one of the two,
// skips the steps that its rows do not attend. So a step takes one key block there.
template <int HeadDim, int BlockQ, int BlockK>
struct Variant {
  static_assert(HeadDim == 64 || HeadDim == 128, "a row is as long as a row of a swizzle");
  static_assert(BlockQ == 64 || BlockQ == 128, "a query block fills whole warpgroups of 64 rows");
  static_assert(BlockK == 64 || BlockK == 128, "key blocks fill whole steps");

  static constexpr int head_dim = HeadDim;
  static constexpr int block_q = BlockQ;
  static constexpr int tile_rows = 128;
  static constexpr int query_blocks = tile_rows / BlockQ;
  static constexpr int block_k = BlockK;
  static constexpr int step_keys = query_blocks == 2 ? BlockK : 128;
  static constexpr int blocks_a_step = step_keys / BlockK;
  static constexpr Number qk = Number::s8, pv = Number::s8;
  static constexpr bool unpacks_keys = false, unpacks_values = false;

  static constexpr int rows_per_warp = 16;  // as wgmma distributes 64 rows
  static constexpr int compute_threads = tile_rows / rows_per_warp * 32;
  static constexpr int query_row_bytes = HeadDim;
};

// The kernel of a variant with fine summaries. With D = 128 a step takes one key block: the third
// kind of step leaves too few registers for two (nvcc 13.0).
template <class V>
struct WithFine : V {
  static constexpr int step_keys = V::head_dim == 128 ? V::block_k : V::step_keys;
  static constexpr int blocks_a_step = step_keys / V::block_k;
};

constexpr int warpgroup_threads = 128, warpgroup_rows = 64;

// Ids of named barriers; 0 is __syncthreads. Those of a query tile are of one warpgroup each.
enum class NamedBarrier : int { first_turn = 1, second_turn = 2, first_query = 3, second_query = 4 };

// Tiles whose data a thread block holds: that of the consumers and the next.
constexpr int tiles_at_once = 2;

// Sizes of the tiles, and registers and slots of a thread block.
template <class V>
struct Layout {
  // Two warpgroups compute. The warps of one more load; one of them has nothing to do.
  static constexpr int consumers = V::tile_rows / warpgroup_rows;
  static constexpr int threads = V::compute_threads + warpgroup_threads;
  static constexpr int blocks_an_sm = 1;

  // A consumer lane holds S (64 or 32), P V (D / 2), the output (D / 2) and P (16). The warps that
  // load get what consumers do not need. Each number leaves all of them without spills.
  static constexpr int launch_registers = 65536 / threads / 8 * 8;  // what ptxas gives each thread
  static constexpr int consumer_registers = V::head_dim == 64       ? 208
                                            : V::step_keys == 64    ? 216
                                            : V::blocks_a_step == 1 ? 232
                                                                    : 240;
  static constexpr int producer_registers =
      threads / warpgroup_threads * launch_registers - consumers * consumer_registers;
  static_assert(producer_registers >= 24, "setmaxnreg takes 24 or more");

  static constexpr Swizzle query_key_swizzle = V::head_dim == 128 ? Swizzle::b128 : Swizzle::b64;
  static constexpr Swizzle value_swizzle = Swizzle::b64;
  static constexpr int query_bytes = V::tile_rows * V::query_row_bytes;
  static constexpr int raw_query_bytes = V::tile_rows * V::head_dim * 2;
  static constexpr int block_bytes = V::block_k * V::head_dim;  // of K, and of V
  static constexpr int value_tile_bytes = value_tile_keys * V::head_dim;
  static constexpr int slot_bytes = 2 * V::blocks_a_step * block_bytes;

  // Consumers hold two slots: K of a step while P V of the step before runs. The others hide the
  // latency of L2. An SM has 228 KB of shared memory and reserves 1 KB of it for each thread block.
  static constexpr int room = 214 * 1024 - query_bytes - raw_query_bytes;
  static constexpr int most_slots = 11;
  static constexpr int slots = room / slot_bytes < most_slots ? room / slot_bytes : most_slots;
  static_assert(slots >= 3, "two slots are in use and one is being filled");
};

}  // namespace paro::kernels::sparse_attention::sm90
