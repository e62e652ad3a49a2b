// The query tile: gathered in the head's order, preconditioned, quantized, and left in shared
// memory. A query row belongs to one tile alone, so nothing is gained by doing this in stage 1,
// whose result would have to be written and read once more.
#pragma once

#include "kernels/quantize.cuh"
#include "kernels/sparse_attention/swizzle.cuh"
#include "kernels/sparse_attention/variant.h"

namespace paro::kernels::sparse_attention {

// One query block of one head.
struct QueryTile {
  Unit unit;
  int head;
  int block;
  int length;            // tokens of the sequence that exist
  const int32_t* order;  // [S]
};

DEVICE_FN int64_t element_at(const Geometry& g, const QueryTile& tile, int token, int head_dim) {
  const int64_t row = static_cast<int64_t>(tile.unit.sample) * g.tokens + token;
  return (row * g.heads + tile.head) * head_dim;
}

// Codes of eight channels into row `row`.
template <class V>
DEVICE_FN void store_query_codes(uint8_t* tile, int row, int first_channel, const Channels8& c) {
  using Size = TileSize<V>;
  const auto at = [&](int byte) {
    const uint32_t offset = tile_offset<Size::query_row_bytes>(static_cast<uint32_t>(row),
                                                               static_cast<uint32_t>(byte / 16));
    return tile + offset + byte % 16;
  };
  if constexpr (V::qk == Number::s8) {
    *reinterpret_cast<uint2*>(at(first_channel)) = codes_s8(c);
  } else if constexpr (V::unpacks_keys) {
    // As a key's nibbles unpack: of 32 channels the even ones to the low 16 bytes, the odd ones to
    // the high 16 (unpack_s4_times_16). The product does not mind the order of channels.
    const uint2 codes = codes_even_odd(c);
    const int low = first_channel / 32 * 32 + first_channel % 32 / 2;
    *reinterpret_cast<uint32_t*>(at(low)) = codes.x;
    *reinterpret_cast<uint32_t*>(at(low + 16)) = codes.y;
  } else {
    *reinterpret_cast<uint32_t*>(at(first_channel / 2)) = codes_s4(c);
  }
}

// Fills the tile and row_factor[block_q]: what turns a row's products into base-2 logits, beside
// the keys' scale. Rows that do not exist are zeros.
template <class V>
DEVICE_FN void load_query(const AttentionParams& p, const QueryTile& q, uint8_t* tile,
                          float* row_factor) {
  constexpr int lanes = V::head_dim / 8, threads = TileSize<V>::threads;
  constexpr int rows_per_pass = threads / lanes;
  const Geometry& g = p.geometry;
  const int thread = static_cast<int>(threadIdx.x), first_channel = thread % lanes * 8;
  const auto* source = static_cast<const uint16_t*>(p.query);
  float equalizer[8];
  if constexpr (is_integer(V::qk)) {
    const float* row = affine_row(g, p.plan, 1, q.unit.kv_head, V::head_dim) + first_channel;
#pragma unroll
    for (int i = 0; i < 8; i++) equalizer[i] = __ldg(row + i);
  }
#pragma unroll 4
  for (int row = thread / lanes; row < V::block_q; row += rows_per_pass) {
    const int position = q.block * V::block_q + row;
    uint4 raw = {};
    if (position < q.length) {
      const int token = token_at(g, q.order, position);
      raw = __ldg(reinterpret_cast<const uint4*>(
          source + element_at(g, q, token, V::head_dim) + first_channel));
    }
    if constexpr (!is_integer(V::qk)) {
      const uint32_t offset = tile_offset<TileSize<V>::query_row_bytes>(
          static_cast<uint32_t>(row), static_cast<uint32_t>(first_channel / 8));
      *reinterpret_cast<uint4*>(tile + offset) = raw;
      if (first_channel == 0) row_factor[row] = p.logit_scale;
    } else {
      const Channels8 x = scaled(channels_from_16bit(raw, p.is_bfloat16), equalizer);
      uint32_t largest = largest_magnitude(x);
#pragma unroll
      for (int distance = 1; distance < lanes; distance *= 2) {
        largest = max(largest, __shfl_xor_sync(~0u, largest, distance));
      }
      const Scale scale = scale_of(largest, levels_of(V::qk));
      store_query_codes<V>(tile, row, first_channel, scaled(x, scale.inverse));
      if (first_channel == 0) row_factor[row] = scale.scale * p.logit_scale;
    }
  }
}

}  // namespace paro::kernels::sparse_attention
