// The two query tiles of a smoothed thread block: rows with 8 bits, and rows less their mean with 4.
#pragma once

#include "kernels/rotate.cuh"
#include "kernels/sparse_attention/sm80/smoothed_memory.cuh"

namespace paro::kernels::sparse_attention::sm80 {

// The quantized scale of eight channels of a row, of which D / 8 consecutive lanes have a part.
template <int D>
DEVICE_FN Scale scale_of_row(const Channels8& x, float levels) {
  uint32_t largest = largest_magnitude(x);
#pragma unroll
  for (int distance = 1; distance < D / 8; distance *= 2) {
    largest = max(largest, __shfl_xor_sync(~0u, largest, distance));
  }
  return scale_of(largest, levels);
}

// Fills both query tiles and their factors, as load_query does.
template <class V>
DEVICE_FN void load_smoothed_query(const AttentionParams& p, const QueryBlock& q,
                                   SmoothedMemory<V>& shared) {
  using Eight = EightBits<V>;
  constexpr int lanes = V::head_dim / 8, rows_per_pass = V::compute_threads / lanes;
  const Geometry& g = p.geometry;
  const int thread = static_cast<int>(threadIdx.x), first_channel = thread % lanes * 8;
  const auto* source = static_cast<const uint16_t*>(p.query);
  const Rotation rotation =
      Rotation::of(p.plan, q.unit.kv_head, first_channel, V::head_dim);
  const float* equalizer =
      affine_row(g, p.plan, PARO_EQUALIZER, q.unit.kv_head, V::head_dim) + first_channel;
  const int64_t mean_row =
      static_cast<int64_t>(launch_head(g, q.unit, q.head)) * g.query_blocks + q.index;
  const Channels8 mean = channels_from_16bit(
      __ldg(reinterpret_cast<const uint4*>(p.mean_query + mean_row * V::head_dim + first_channel)),
      p.is_bfloat16);
#pragma unroll 1
  for (int row = thread / lanes; row < V::block_q; row += rows_per_pass) {
    const int position = q.index * V::block_q + row;
    uint4 raw = {};
    if (position < q.length) {
      const int token = token_at(g, q.order, position);
      raw = __ldg(reinterpret_cast<const uint4*>(
          source + element_at(g, q, token, V::head_dim) + first_channel));
    }
    Channels8 x = channels_from_16bit(raw, p.is_bfloat16);
#pragma unroll
    for (int i = 0; i < 8; i++) x.x[i] = __fmul_rn(x.x[i], __ldg(equalizer + i));
    rotate<V::head_dim>(rotation, x);
    const Scale scale = scale_of_row<V::head_dim>(x, levels_of(Number::s8));
    store_query_codes<Eight>(shared.tiles.query, row, first_channel, scaled(x, scale.inverse));
#pragma unroll
    for (int i = 0; i < 8; i++) x.x[i] = __fadd_rn(x.x[i], -mean.x[i]);
    const Scale residual = scale_of_row<V::head_dim>(x, levels_of(Number::s4));
    store_query_codes<V>(shared.tiles.residual, row, first_channel, scaled(x, residual.inverse));
    if (first_channel == 0) {
      shared.row_factors[row] = scale.scale * p.logit_scale;
      shared.residual_factors[row] = residual.scale * p.logit_scale * score_scale<V>;
    }
  }
}

}  // namespace paro::kernels::sparse_attention::sm80
