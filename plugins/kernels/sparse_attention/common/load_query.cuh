// Which query block a thread block computes, and its query tile: gathered in the head's order,
// equalized, quantized, and written to shared memory. A query row belongs to one query block alone,
// so stage 1 would only write the result to memory for stage 2 to read it again.
//
// Query blocks of a launch are numbered in the order of tile_order, and each number once for every
// sample.
#pragma once

#include "kernels/quantize.cuh"
#include "kernels/swizzle.cuh"
#include "ptx/cache_policy.cuh"

namespace paro::kernels::sparse_attention {

// One query block of one head; where a tile has several, the first of them.
struct QueryBlock {
  Unit unit;
  int head;
  int index;             // in the head's order
  int length;            // tokens of the sequence that exist
  const int32_t* order;  // [S]
};

// A query block's rows of masks, [W] each; those of the tile's next query block follow.
struct MaskRows {
  const uint32_t* exact;
  const uint32_t* fine;  // null where there are no fine summaries
};

// Index of query head `head` among those of the launch, which are counted unit by unit.
DEVICE_FN int launch_head(const Geometry& g, const Unit& unit, int head) {
  const int group = g.heads / g.kv_heads;
  return unit.index * group + head % group;
}

// Finds query block `number` of the launch, in the order of tile_order, and its masks. False where
// its head belongs to another group of units, or where it is part of another tile: a tile of two
// query blocks runs when the even one of them is due. Their rows list nearly as many keys, so that
// the order of tile_order is nearly kept.
template <int QueryBlocks = 1>
DEVICE_FN bool find_query_block(const AttentionParams& p, QueryBlock& q, MaskRows& rows,
                                int number = static_cast<int>(blockIdx.x)) {
  const Geometry& g = p.geometry;
  const int first_sample = g.first_unit / g.kv_heads;
  const int samples = (g.first_unit + g.units - 1) / g.kv_heads - first_sample + 1;
  const int rank = number / samples;
  const int sample = first_sample + number % samples;
  const int count = g.heads * g.query_blocks;
  const int bin = min(max(__ldg(p.plan.mask_bin + sample), 0), g.bins - 1);
  const int place = clamp_index(__ldg(p.plan.tile_order + static_cast<int64_t>(bin) * count + rank),
                                count, "tile_order");
  q.head = place / g.query_blocks;
  q.index = place % g.query_blocks;
  if (q.index % QueryBlocks != 0) return false;
  const int kv_head = q.head / (g.heads / g.kv_heads);
  q.unit = {sample * g.kv_heads + kv_head - g.first_unit, sample, kv_head};
  if (q.unit.index < 0 || q.unit.index >= g.units) return false;
  q.length = length_of(g, p.plan, sample);
  q.order = order_of(g, p.plan, q.head);
  const int64_t row = (static_cast<int64_t>(bin) * count + place) * g.mask_words;
  rows.exact = reinterpret_cast<const uint32_t*>(p.plan.block_mask) + row;
  rows.fine = nullptr;
  if (p.plan.fine_mask != nullptr) {
    rows.fine = reinterpret_cast<const uint32_t*>(p.plan.fine_mask) + row;
  }
  if (p.routed_mask != nullptr) {
    const int64_t routed =
        static_cast<int64_t>(launch_head(g, q.unit, q.head)) * g.query_blocks + q.index;
    rows.exact = p.routed_mask + routed * g.mask_words;
  }
  return true;
}

// Index of the head's first channel of a token in query and output.
DEVICE_FN int64_t element_at(const Geometry& g, const QueryBlock& q, int token, int head_dim) {
  const int64_t row = static_cast<int64_t>(q.unit.sample) * g.tokens + token;
  return (row * g.heads + q.head) * head_dim;
}

// Writes the codes of eight channels to row `row` of the tile.
template <class V>
DEVICE_FN void store_query_codes(uint8_t* tile, int row, int first_channel, const Channels8& c) {
  const auto at = [&](int byte) {
    const uint32_t offset = swizzled_offset<V::query_row_bytes>(static_cast<uint32_t>(row),
                                                                static_cast<uint32_t>(byte / 16));
    return tile + offset + byte % 16;
  };
  if constexpr (V::qk == Number::s8) {
    *reinterpret_cast<uint2*>(at(first_channel)) = codes_s8(c);
  } else if constexpr (V::unpacks_keys) {
    // The order in which a key's nibbles unpack: of 32 channels the even ones fill the low 16 bytes
    // and the odd ones the high 16 (unpack_s4_times_16). The product does not depend on the order
    // of the channels.
    const uint2 codes = codes_even_odd(c);
    const int low = first_channel / 32 * 32 + first_channel % 32 / 2;
    *reinterpret_cast<uint32_t*>(at(low)) = codes.x;
    *reinterpret_cast<uint32_t*>(at(low + 16)) = codes.y;
  } else {
    *reinterpret_cast<uint32_t*>(at(first_channel / 2)) = codes_s4(c);
  }
}

// Quantizes a row of which this lane has eight channels, and the head_dim / 8 lanes around it all.
// Its factor, times the scale of the keys, turns the row's products into base-2 logits.
template <class V>
DEVICE_FN void write_query_row(const AttentionParams& p, const uint4& raw,
                               const float (&equalizer)[8], int row, int first_channel,
                               uint8_t* tile, float* row_factors) {
  const Channels8 x = scaled(channels_from_16bit(raw, p.is_bfloat16), equalizer);
  uint32_t largest = largest_magnitude(x);
#pragma unroll
  for (int distance = 1; distance < V::head_dim / 8; distance *= 2) {
    largest = max(largest, __shfl_xor_sync(~0u, largest, distance));
  }
  const Scale scale = scale_of(largest, levels_of(V::qk));
  store_query_codes<V>(tile, row, first_channel, scaled(x, scale.inverse));
  if (first_channel == 0) row_factors[row] = scale.scale * p.logit_scale;
}

// Fills the tile and row_factors [tile_rows]. Rows without a token are zeros.
template <class V>
DEVICE_FN void load_query(const AttentionParams& p, const QueryBlock& q, uint8_t* tile,
                          float* row_factors) {
  constexpr int lanes = V::head_dim / 8, rows_per_pass = V::compute_threads / lanes;
  const Geometry& g = p.geometry;
  const int thread = static_cast<int>(threadIdx.x), first_channel = thread % lanes * 8;
  const auto* source = static_cast<const uint16_t*>(p.query);
  const uint64_t policy = ptx::evict_first_policy();
  float equalizer[8];
  if constexpr (is_integer(V::qk)) {
    const float* row =
        affine_row(g, p.plan, PARO_EQUALIZER, q.unit.kv_head, V::head_dim) + first_channel;
#pragma unroll
    for (int i = 0; i < 8; i++) equalizer[i] = __ldg(row + i);
  }
#pragma unroll 4
  for (int row = thread / lanes; row < V::tile_rows; row += rows_per_pass) {
    const int position = q.index * V::block_q + row;
    uint4 raw = {};
    if (position < q.length) {
      const int token = token_at(g, q.order, position);
      raw = ptx::load_with_policy(source + element_at(g, q, token, V::head_dim) + first_channel,
                                  policy);
    }
    if constexpr (!is_integer(V::qk)) {
      const uint32_t offset = swizzled_offset<V::query_row_bytes>(
          static_cast<uint32_t>(row), static_cast<uint32_t>(first_channel / 8));
      *reinterpret_cast<uint4*>(tile + offset) = raw;
      if (first_channel == 0) row_factors[row] = p.logit_scale;
    } else {
      write_query_row<V>(p, raw, equalizer, row, first_channel, tile, row_factors);
    }
  }
}

}  // namespace paro::kernels::sparse_attention
