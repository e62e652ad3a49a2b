// Which mma.sync kernels exist, and the sizes that follow from the template parameters.
#pragma once

#include "kernels/params.h"

namespace paro::kernels::sparse_attention::sm80 {

// QK is the type of the codes of Q and K. PV is the type of the codes of V; P is unsigned and has
// as many bits. 16-bit types are those of the inputs; where QK and PV are both integers, the inputs
// may have either 16-bit type.
//
// A step takes StepKeys keys, a span. The codes of P are relative to the maximum of a whole key
// block, so integer PV needs steps as wide as the blocks. 16-bit PV always takes steps of 64 keys.
template <int HeadDim, int BlockQ, int StepKeys, Number Qk, Number Pv, FourBit Four>
struct Variant {
  static_assert(HeadDim == 64 || HeadDim == 128, "a row fills whole rows of the swizzle");
  static_assert(BlockQ == 64 || BlockQ == 128, "a query block fills whole warps of 32 rows");
  static_assert(StepKeys == 64 || (StepKeys == 128 && is_integer(Pv)), "16-bit PV steps by 64");
  static_assert(is_integer(Qk) || is_integer(Pv) || Qk == Pv, "Q, K and V have one 16-bit type");

  static constexpr int head_dim = HeadDim;
  static constexpr int block_q = BlockQ;
  // A thread block takes 128 rows: one query block, or two of 64 rows with masks of their own. It
  // loads each span that either attends once, where thread blocks of 64 rows would load twice as
  // many bytes for each product.
  static constexpr int tile_rows = 128;
  static constexpr int query_blocks = tile_rows / BlockQ;
  static constexpr int step_keys = StepKeys;
  static constexpr Number qk = Qk, pv = Pv;
  static constexpr FourBit four_bit = Four;
  static constexpr bool unpacks_keys = Qk == Number::s4 && Four == FourBit::unpacked;
  static constexpr bool unpacks_values = Pv == Number::s4 && Four == FourBit::unpacked;

  // A warp takes 32 query rows: each fragment of K and V that it reads from shared memory serves
  // two products. 16 rows would double that traffic, to 16 bytes a score at D = 128, which is all
  // that shared memory gives at the tensor rate of sm_80 and sm_90. Steps of 128 keys accept it,
  // because the scores and the output of 32 rows do not fit the registers there.
  static constexpr int rows_per_warp = StepKeys == 128 ? 16 : 32;
  static constexpr int compute_threads = tile_rows / rows_per_warp * 32;
  static constexpr int query_row_bytes = unpacks_keys ? HeadDim : HeadDim * bits_of(Qk) / 8;
};

// Sizes of the tiles in shared memory.
template <class V>
struct Layout {
  static constexpr int key_row_bytes = V::head_dim * bits_of(V::qk) / 8;
  // Integer values lie transposed: a row is 64 keys of one channel.
  static constexpr int value_rows = is_integer(V::pv) ? V::head_dim : V::step_keys;
  static constexpr int value_row_bytes =
      (is_integer(V::pv) ? value_tile_keys : V::head_dim) * bits_of(V::pv) / 8;

  static constexpr int query_bytes = V::tile_rows * V::query_row_bytes;
  static constexpr int key_bytes = V::step_keys * key_row_bytes;
  static constexpr int value_tiles = is_integer(V::pv) ? V::step_keys / value_tile_keys : 1;
  static constexpr int value_tile_bytes = value_rows * value_row_bytes;
  static constexpr int value_bytes = value_tiles * value_tile_bytes;
  static constexpr int value_scales = V::pv == Number::s4 ? V::head_dim : 1;

  // Two slots: the arithmetic of a step takes longer than the next step's tiles take to arrive from
  // L2. Where a thread block with two does not fit the GPUs that give it the least shared memory,
  // 99 KB, it has one, and only other thread blocks hide its loads: 16-bit keys of D = 128 with
  // steps of 128.
  static constexpr auto tile_bytes = [](int keys, int values) {
    return query_bytes + keys * key_bytes + values * value_bytes;
  };
  static constexpr int slots = tile_bytes(2, 2) <= 96 * 1024 ? 2 : 1;

  // Where it lets two thread blocks fit an SM of 100 KB, 16-bit values have one slot: those of a
  // step arrive during its Q K^T and softmax, and the keys of the next step in their second slot.
  static constexpr int half_of_100_kb = 48 * 1024;  // what tiles may take
  static constexpr bool staggered = !is_integer(V::pv) && V::qk != Number::s4 &&
                                    tile_bytes(2, 2) > half_of_100_kb &&
                                    tile_bytes(2, 1) <= half_of_100_kb;
};

}  // namespace paro::kernels::sparse_attention::sm80
