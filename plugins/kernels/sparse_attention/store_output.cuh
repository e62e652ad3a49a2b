// Epilogue: normalise, undo the value affine, and scatter rows to the original token order.
#pragma once

#include "kernels/quantize.cuh"
#include "kernels/sparse_attention/load_query.cuh"
#include "kernels/sparse_attention/softmax.cuh"

namespace paro::kernels::sparse_attention {

// A warp's output rows: tile (a, d) is rows 16 a .., channels 8 d ...
template <class V>
using Output = float[row_tiles<V>][V::head_dim / 8][4];

// One 16-row tile, normalised, to the warp's rows in shared memory. Rows with nothing to attend are
// 0.
template <class V>
PTX_FN void stage_rows(const AttentionParams& p, const QueryTile& q, const RowState& state,
                       const float (&out)[V::head_dim / 8][4], uint8_t* rows) {
  float inverse[2];
#pragma unroll
  for (int row = 0; row < 2; row++) {
    float sum = state.sum[row];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    inverse[row] = sum == 0.0f ? 0.0f : __fdiv_rn(1.0f, sum);
  }
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float* mean = affine_row(p.geometry, p.plan, 2, q.unit.kv_head, V::head_dim);
  const float* scale = affine_row(p.geometry, p.plan, 3, q.unit.kv_head, V::head_dim);
#pragma unroll
  for (int d = 0; d < V::head_dim / 8; d++) {
    const int channel = d * 8 + lane % 4 * 2;
    const float means[2] = {__ldg(mean + channel), __ldg(mean + channel + 1)};
    const float scales[2] = {__ldg(scale + channel), __ldg(scale + channel + 1)};
#pragma unroll
    for (int row = 0; row < 2; row++) {
      float x[2];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        x[i] = out[d][2 * row + i] * inverse[row];
        if (is_integer(V::pv)) x[i] = inverse[row] == 0.0f ? 0.0f : fmaf(x[i], scales[i], means[i]);
      }
      uint8_t* target = rows + (lane / 4 + row * 8) * TileSize<V>::output_row_bytes + channel * 2;
      *reinterpret_cast<uint32_t*>(target) = pair_from_floats(x[0], x[1], p.is_bfloat16);
    }
  }
}

// Through shared memory, so that a row leaves in one piece. A warp touches its own rows only.
// Rows that are no more than padding are 0.
template <class V>
PTX_FN void store_output(const AttentionParams& p, const QueryTile& q,
                         const RowState (&state)[row_tiles<V>], const Output<V>& out,
                         uint8_t* staging) {
  constexpr int pitch = TileSize<V>::output_row_bytes, chunks = V::head_dim / 8;
  const Geometry& g = p.geometry;
  const int first_row = static_cast<int>(threadIdx.x / 32) * rows_per_warp<V>;
#pragma unroll
  for (int tile = 0; tile < row_tiles<V>; tile++) {
    stage_rows<V>(p, q, state[tile], out[tile], staging + (first_row + tile * 16) * pitch);
  }
  __syncwarp();  // sync: the warp's rows are in shared memory
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x % 32); i < rows_per_warp<V> * chunks; i += 32) {
    const int row = first_row + i / chunks, position = q.block * V::block_q + row;
    if (position >= g.tokens) continue;
    const uint4 chunk = *reinterpret_cast<const uint4*>(staging + row * pitch + i % chunks * 16);
    const int64_t element = element_at(g, q, token_at(g, q.order, position), V::head_dim);
    auto* target = static_cast<uint16_t*>(p.output) + element + i % chunks * 8;
    *reinterpret_cast<uint4*>(target) = position < q.length ? chunk : uint4{};
  }
}

}  // namespace paro::kernels::sparse_attention
