// Which kernels of stage 2 exist: template parameters as one type, and the sizes that follow.
#pragma once

#include <cstddef>

#include "kernels/params.h"

namespace paro::kernels::sparse_attention {

// How 4-bit products are computed. The tensor cores of sm_80 to sm_89 take 4-bit operands; later
// ones would emulate them by many instructions, so codes are unpacked to 8 bits there.
enum class FourBit { native, unpacked };

// QK: type of Q and K codes; PV: type of V codes (P is unsigned with as many bits). 16-bit types
// are the inputs' own; where both are integers, inputs of either 16-bit type are taken.
//
// A step takes StepKeys keys, a slot, at once. Codes of P are relative to the maximum of a whole
// key block, so that integer PV needs steps as wide as the blocks; 16 bits do with 64 keys.
template <int HeadDim, int BlockQ, int StepKeys, Number Qk, Number Pv, FourBit Four>
struct Variant {
  static constexpr int head_dim = HeadDim;
  static constexpr int block_q = BlockQ;
  static constexpr int step_keys = StepKeys;
  static constexpr Number qk = Qk, pv = Pv;
  static constexpr FourBit four_bit = Four;
  static_assert(HeadDim == 64 || HeadDim == 128, "channels must fill swizzled rows");
  static_assert(BlockQ == 64 || BlockQ == 128, "whole warps of 32 rows");
  static_assert(StepKeys == 64 || (StepKeys == 128 && is_integer(Pv)), "see above");
  static_assert(is_integer(Qk) || is_integer(Pv) || Qk == Pv, "inputs have one type");

  static constexpr bool unpacks_keys = Qk == Number::s4 && Four == FourBit::unpacked;
  static constexpr bool unpacks_values = Pv == Number::s4 && Four == FourBit::unpacked;
};

// A warp takes 32 query rows: K and V fragments, read from shared memory once, serve two products
// each. 16 rows would double that traffic (16 bytes a score at D = 128: all there is at the tensor
// rate of sm_80 and sm_90), which is left to steps of 128 keys: scores and output of 32 rows do not
// fit the registers there.
template <class V>
constexpr int rows_per_warp = V::step_keys == 128 ? 16 : 32;
template <class V>
constexpr int row_tiles = rows_per_warp<V> / 16;

// The swizzle needs whole periods of 8 rows; 1024 bytes also suit every later copy engine.
constexpr size_t tile_alignment = 1024;

// Bytes and offsets of a thread block's shared memory, in the order they lie in.
template <class V>
struct TileSize {
  static constexpr int warps = V::block_q / rows_per_warp<V>;
  static constexpr int threads = warps * 32;

  static constexpr int query_row_bytes =
      V::unpacks_keys ? V::head_dim : V::head_dim * bits_of(V::qk) / 8;
  static constexpr int key_row_bytes = V::head_dim * bits_of(V::qk) / 8;
  // Integers lie transposed: a row is a channel's 64 keys.
  static constexpr int value_rows = is_integer(V::pv) ? V::head_dim : V::step_keys;
  static constexpr int value_row_bytes =
      (is_integer(V::pv) ? value_tile_keys : V::head_dim) * bits_of(V::pv) / 8;

  static constexpr int query_bytes = V::block_q * query_row_bytes;
  static constexpr int key_bytes = V::step_keys * key_row_bytes;
  static constexpr int value_tiles = is_integer(V::pv) ? V::step_keys / value_tile_keys : 1;
  static constexpr int value_tile_bytes = value_rows * value_row_bytes;
  static constexpr int value_bytes = value_tiles * value_tile_bytes;
  static constexpr int tile_bytes = key_bytes + value_bytes;

  // Two stages: one step's arithmetic takes longer than the next step's way from L2, and
  // with steps of 64 keys two thread blocks must fit an SM of 100 KB.
  static constexpr int stages = 2;
  static constexpr int value_scales = V::pv == Number::s4 ? V::head_dim : 1;

  static constexpr int tiles_bytes = query_bytes + stages * tile_bytes;
  // The output is staged where the tiles were; 16 bytes more a row keep it free of bank conflicts.
  static constexpr int output_row_bytes = V::head_dim * 2 + 16;
  static constexpr int output_bytes = V::block_q * output_row_bytes;
  static constexpr int reused_bytes = tiles_bytes > output_bytes ? tiles_bytes : output_bytes;

  static constexpr int query_offset = 0;
  static constexpr int stage_offset = query_bytes;
  static constexpr int factor_offset = reused_bytes;                    // float [block_q]
  static constexpr int extras_offset = factor_offset + V::block_q * 4;  // StageExtras [stages]
  static constexpr int extras_bytes = 16 + (value_scales + 3) / 4 * 16 + V::step_keys;
  static constexpr int work_offset = extras_offset + stages * extras_bytes;  // TileWork
  static constexpr int work_bytes = 80;
  static constexpr int mask_offset = work_offset + work_bytes;  // uint32 [mask words]

  static_assert(query_bytes % tile_alignment == 0 && key_bytes % tile_alignment == 0 &&
                    value_bytes % tile_alignment == 0,
                "swizzled tiles start at whole periods");

  static constexpr size_t shared_bytes(int mask_words) {
    return static_cast<size_t>(mask_offset) + static_cast<size_t>(mask_words) * 4;
  }
};

}  // namespace paro::kernels::sparse_attention
