// The two matrix products of a step, query rows of a warp against one slot of keys.
//
// Fragments follow ptx/mma.cuh. Lane 4 g + i holds, of each 16 x 8 accumulator tile, rows g and
// g + 8, columns 2 i and 2 i + 1.
#pragma once

#include <type_traits>

#include "kernels/sparse_attention/load_order.cuh"
#include "kernels/sparse_attention/swizzle.cuh"
#include "kernels/sparse_attention/variant.h"
#include "ptx/convert.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mma.cuh"

namespace paro::kernels::sparse_attention {

template <class V>
constexpr int key_tiles = V::step_keys / 8;

// What a product of integers counts in: unpacked 4-bit codes are 16 times themselves.
template <class V>
constexpr float score_unit = V::unpacks_keys ? 1.0f / 16 : 1.0f;
template <class V>
constexpr float value_unit = V::unpacks_values ? 1.0f / 16 : 1.0f;

// Integer accumulators start at ptx::biased_zero, so that their bits are a float.
template <Number N>
using Accumulator = typename std::conditional<is_integer(N), int32_t, float>::type;

// What accumulators of integer products start from, kept in registers through the whole walk.
struct BiasedZero {
  int32_t registers[4];
};

// Tile (a, n) is rows 16 a .. of the warp, keys 8 n ...
template <class V>
using Scores = Accumulator<V::qk>[row_tiles<V>][key_tiles<V>][4];

template <class V>
PTX_FN void multiply_scores(bool first, const BiasedZero& zero, Accumulator<V::qk> (&c)[4],
                            const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  constexpr float float_zero[4] = {};
  if constexpr (V::qk == Number::f16) {
    first ? ptx::mma_f16_from(float_zero, c, a, b) : ptx::mma_f16(c, a, b);
  } else if constexpr (V::qk == Number::bf16) {
    first ? ptx::mma_bf16_from(float_zero, c, a, b) : ptx::mma_bf16(c, a, b);
  } else if constexpr (V::qk == Number::s4 && !V::unpacks_keys) {
    first ? ptx::mma_s4_s4_from(zero.registers, c, a, b) : ptx::mma_s4_s4(c, a, b);
  } else {
    first ? ptx::mma_s8_s8_from(zero.registers, c, a, b) : ptx::mma_s8_s8(c, a, b);
  }
}

// B operand of Q K^T for one key tile, from what one ldmatrix gave.
template <class V>
PTX_FN void take_key_operand(const uint32_t (&loaded)[4], uint32_t tile, uint32_t (&b)[2]) {
  if constexpr (V::unpacks_keys) {
    const ptx::BytePair bytes = ptx::unpack_s4_times_16(loaded[tile]);
    b[0] = bytes.low, b[1] = bytes.high;
  } else {
    b[0] = loaded[2 * tile], b[1] = loaded[2 * tile + 1];
  }
}

// S = Q K^T. An instruction takes 32 bytes of a query row, whatever the type, and of a key row as
// many channels: 32 bytes, or 16 that unpack to 32.
template <class V>
PTX_FN void score_product(uint32_t query_tile, uint32_t key_tile, const BiasedZero& zero,
                          Scores<V>& scores) {
  using Size = TileSize<V>;
  constexpr uint32_t tiles = row_tiles<V>, steps = Size::query_row_bytes / 32;
  constexpr uint32_t key_step_bytes = Size::key_row_bytes / steps;
  constexpr uint32_t tiles_a_load = V::unpacks_keys ? 4 : 2;
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t query_address = query_tile + tile_offset<Size::query_row_bytes>(
                                                  warp * rows_per_warp<V> + lane % 16, lane / 16);
  // The four matrices of a load: four key tiles, or the two halves of two.
  const uint32_t key_row = V::unpacks_keys ? lane : lane % 8 + lane / 16 * 8;
  const uint32_t key_chunk = V::unpacks_keys ? 0 : lane / 8 % 2;
  const uint32_t key_address = key_tile + tile_offset<Size::key_row_bytes>(key_row, key_chunk);
#pragma unroll
  for (uint32_t step = 0; step < steps; step++) {
    hold_loads_back(LoadOrder<V>::by_query_step && step > 0);
    uint32_t a[tiles][4];
#pragma unroll
    for (uint32_t tile = 0; tile < tiles; tile++) {
      ptx::ldmatrix_x4(a[tile], (query_address ^ (step << 5)) + tile * 16 * Size::query_row_bytes);
    }
#pragma unroll
    for (uint32_t n = 0; n < key_tiles<V>; n += tiles_a_load) {
      uint32_t loaded[4];
      ptx::ldmatrix_x4(loaded, (key_address ^ step * key_step_bytes) + n * 8 * Size::key_row_bytes);
#pragma unroll
      for (uint32_t i = 0; i < tiles_a_load; i++) {
        uint32_t b[2];
        take_key_operand<V>(loaded, i, b);
#pragma unroll
        for (uint32_t tile = 0; tile < tiles; tile++) {
          multiply_scores<V>(step == 0, zero, scores[tile][n + i], a[tile], b);
        }
      }
    }
  }
}

// P of one 16-row tile as the A operand of P V, ready for `instructions` products.
template <class V>
struct Probabilities {
  static constexpr int keys_each = !is_integer(V::pv)                          ? 16
                                   : V::pv == Number::s4 && !V::unpacks_values ? 64
                                                                               : 32;
  static constexpr int instructions = V::step_keys / keys_each;
  uint32_t a[instructions][4];
};

// B operands of P V for one pair of 8-channel tiles (d, d + 1), the keys of one value tile.
template <class V>
struct ValueFragments {
  static constexpr int instructions = value_tile_keys / Probabilities<V>::keys_each;
  uint32_t b[2][instructions][2];
};

template <class V>
PTX_FN void load_value_tile(uint32_t value_tile, uint32_t d, ValueFragments<V>& fragments) {
  using Size = TileSize<V>;
  const uint32_t lane = threadIdx.x % 32;
  uint32_t r[4];
  if constexpr (!is_integer(V::pv)) {
    // Rows are keys: transposed on the way.
    const uint32_t address =
        (value_tile + tile_offset<Size::value_row_bytes>(lane % 16, lane / 16)) ^ ((d % 8) << 4);
#pragma unroll
    for (uint32_t k = 0; k < 4; k++) {
      ptx::ldmatrix_x4_trans(r, address + d / 8 * 128 + k * 16 * Size::value_row_bytes);
      fragments.b[0][k][0] = r[0], fragments.b[0][k][1] = r[1];
      fragments.b[1][k][0] = r[2], fragments.b[1][k][1] = r[3];
    }
  } else if constexpr (V::pv == Number::s8) {
    const uint32_t address = value_tile + tile_offset<Size::value_row_bytes>(lane % 8, lane / 8);
#pragma unroll
    for (uint32_t tile = 0; tile < 2; tile++) {
      ptx::ldmatrix_x4(r, address + (d + tile) * 8 * Size::value_row_bytes);
      fragments.b[tile][0][0] = r[0], fragments.b[tile][0][1] = r[1];
      fragments.b[tile][1][0] = r[2], fragments.b[tile][1][1] = r[3];
    }
  } else {
    const uint32_t address =
        value_tile + tile_offset<Size::value_row_bytes>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    ptx::ldmatrix_x4(r, address + d * 8 * Size::value_row_bytes);
#pragma unroll
    for (uint32_t tile = 0; tile < 2; tile++) {
      if constexpr (V::unpacks_values) {
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
          const ptx::BytePair bytes = ptx::unpack_s4_times_16(r[2 * tile + half]);
          fragments.b[tile][half][0] = bytes.low, fragments.b[tile][half][1] = bytes.high;
        }
      } else {
        fragments.b[tile][0][0] = r[2 * tile], fragments.b[tile][0][1] = r[2 * tile + 1];
      }
    }
  }
}

// c += P V for 16 bits, c = biased zero + P V for integers: one 16 x 8 tile, the keys of value tile
// `value_tile`.
template <class V>
PTX_FN void multiply_values(int value_tile, const BiasedZero& zero, Accumulator<V::pv> (&c)[4],
                            const Probabilities<V>& p,
                            const uint32_t (&b)[ValueFragments<V>::instructions][2]) {
#pragma unroll
  for (int k = 0; k < ValueFragments<V>::instructions; k++) {
    const uint32_t (&a)[4] = p.a[value_tile * ValueFragments<V>::instructions + k];
    const bool first = value_tile == 0 && k == 0;
    if constexpr (V::pv == Number::f16) {
      ptx::mma_f16(c, a, b[k]);
    } else if constexpr (V::pv == Number::bf16) {
      ptx::mma_bf16(c, a, b[k]);
    } else if constexpr (V::pv == Number::s4 && !V::unpacks_values) {
      first ? ptx::mma_u4_s4_from(zero.registers, c, a, b[k]) : ptx::mma_u4_s4(c, a, b[k]);
    } else {
      first ? ptx::mma_u8_s8_from(zero.registers, c, a, b[k]) : ptx::mma_u8_s8(c, a, b[k]);
    }
  }
}

}  // namespace paro::kernels::sparse_attention
