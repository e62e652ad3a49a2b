// Loads the rows of a key block: tokens, gathered in a head's order and preconditioned, or means.
#pragma once

#include "kernels/reorder_quantize/tile.cuh"

namespace paro::kernels::reorder_quantize {

enum class Side { key, value };

// (x - shift) * factor for a thread's eight channels: key or value rows of channel_affine.
struct Precondition {
  float shift[8];
  float factor[8];
};

template <int D>
DEVICE_FN Precondition precondition_of(const ReorderParams& p, Side side, int kv_head,
                                       int first_channel) {
  const bool is_key = side == Side::key;
  const paro_affine_row mean_row = is_key ? PARO_KEY_MEAN : PARO_VALUE_MEAN;
  const paro_affine_row divisor_row = is_key ? PARO_EQUALIZER : PARO_VALUE_SCALE;
  const float* shift = affine_row(p.geometry, p.plan, mean_row, kv_head, D) + first_channel;
  const float* divisor = affine_row(p.geometry, p.plan, divisor_row, kv_head, D) + first_channel;
  Precondition result;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    result.shift[i] = __ldg(shift + i);
    result.factor[i] = __frcp_rn(__ldg(divisor + i));
  }
  return result;
}

DEVICE_FN Channels8 apply(const Precondition& precondition, const Channels8& c) {
  Channels8 result;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    result.x[i] = (c.x[i] - precondition.shift[i]) * precondition.factor[i];
  }
  return result;
}

// Loads tokens block * BlockK ... of the reordered sequence, and zeros where none exists. At 16
// bits the affine has no effect.
template <Number Source, int D, int BlockK>
DEVICE_FN void load_tokens(const ReorderParams& p, Side side, const Unit& unit, int block,
                           const TileMap<D, BlockK>& map,
                           Channels8 (&rows)[TileMap<D, BlockK>::rows_per_thread]) {
  using Map = TileMap<D, BlockK>;
  const Geometry& g = p.geometry;
  const int length = length_of(g, p.plan, unit.sample);
  const int32_t* order = order_of(g, p.plan, unit.kv_head * (g.heads / g.kv_heads));
  const auto* source = static_cast<const uint16_t*>(side == Side::key ? p.key : p.value);
  uint4 raw[Map::rows_per_thread];
#pragma unroll
  for (int i = 0; i < Map::rows_per_thread; i++) {
    const int position = block * BlockK + map.first_row + i * Map::row_stride;
    raw[i] = {};
    if (position >= length) continue;
    const int64_t token =
        static_cast<int64_t>(unit.sample) * g.tokens + token_at(g, order, position);
    const int64_t element = (token * g.kv_heads + unit.kv_head) * D + map.first_channel;
    raw[i] = __ldg(reinterpret_cast<const uint4*>(source + element));
  }
  const Number number = side == Side::key ? p.key_number : p.value_number;
  const Precondition precondition =
      precondition_of<D>(p, side, unit.kv_head, map.first_channel);
#pragma unroll
  for (int i = 0; i < Map::rows_per_thread; i++) {
    const int position = block * BlockK + map.first_row + i * Map::row_stride;
    rows[i] = channels_from_16bit(raw[i], Source == Number::bf16);
    // The affine moves zeros, and absent tokens must not enter a scale or a mean.
    if (is_integer(number) && position < length) rows[i] = apply(precondition, rows[i]);
  }
}

// Loads the means of blocks summary_block * BlockK ..., and zeros for blocks that contain no token.
template <int D, int BlockK>
DEVICE_FN void load_means(const ReorderParams& p, Side side, const Unit& unit, int summary_block,
                          const TileMap<D, BlockK>& map,
                          Channels8 (&rows)[TileMap<D, BlockK>::rows_per_thread]) {
  using Map = TileMap<D, BlockK>;
  const Geometry& g = p.geometry;
  const int existing = (length_of(g, p.plan, unit.sample) + BlockK - 1) / BlockK;
  const float* means = side == Side::key ? p.means.key : p.means.value;
#pragma unroll
  for (int i = 0; i < Map::rows_per_thread; i++) {
    const int block = summary_block * BlockK + map.first_row + i * Map::row_stride;
    rows[i] = {};
    if (block >= existing) continue;
    const int64_t row = static_cast<int64_t>(unit.index) * g.key_blocks + block;
    const auto* source = reinterpret_cast<const float4*>(means + row * D + map.first_channel);
    const float4 low = __ldg(source), high = __ldg(source + 1);
    rows[i] = {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
  }
}

}  // namespace paro::kernels::reorder_quantize
