// Epilogue: normalise the output, undo the value affine, and scatter the rows to the original token
// order. The output tile passes through shared memory, so that each row leaves in one piece.
#pragma once

#include "kernels/sparse_attention/common/load_query.cuh"
#include "kernels/sparse_attention/common/softmax.cuh"

namespace paro::kernels::sparse_attention {

// A warp's part of the output: fragment (a, d) is rows 16 a .., channels 8 d ...
template <class V>
using Output = float[row_fragments<V>][V::head_dim / 8][4];

// The output tile in shared memory. 16 more bytes a row keep it free of bank conflicts.
template <class V>
constexpr int output_row_bytes = V::head_dim * 2 + 16;
template <class V>
constexpr int output_bytes = V::tile_rows * output_row_bytes<V>;

// What is added to every row of a query block that attends something, [D], or null. `block`: its
// number in the tile; it may not exist.
DEVICE_FN const float* correction_of(const AttentionParams& p, const QueryBlock& q, int block,
                                     int head_dim) {
  if (p.correction == nullptr || __ldg(p.plan.corrected_heads + q.head) == 0) return nullptr;
  const int64_t head = launch_head(p.geometry, q.unit, q.head);
  const int index = min(q.index + block, p.geometry.query_blocks - 1);
  return p.correction + (head * p.geometry.query_blocks + index) * head_dim;
}

// 1 / the sum of each row, over the four lanes that hold it; 0 of a row that attends nothing.
DEVICE_FN void invert_sums(const RowState& state, float (&inverse)[2]) {
#pragma unroll
  for (int row = 0; row < 2; row++) {
    float sum = state.sum[row];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    inverse[row] = sum == 0.0f ? 0.0f : __fdiv_rn(1.0f, sum);
  }
}

// Writes 16 normalised rows of the warp to `rows` in shared memory. Rows that attend nothing are 0.
template <class V>
PTX_FN void write_rows(const AttentionParams& p, const QueryBlock& q, const RowState& state,
                       const float (&out)[V::head_dim / 8][4], uint8_t* rows) {
  float inverse[2];
  invert_sums(state, inverse);
  const int lane = static_cast<int>(threadIdx.x % 32), kv_head = q.unit.kv_head;
  const float* mean = affine_row(p.geometry, p.plan, PARO_VALUE_MEAN, kv_head, V::head_dim);
  const float* scale = affine_row(p.geometry, p.plan, PARO_VALUE_SCALE, kv_head, V::head_dim);
  const int block = static_cast<int>(threadIdx.x / 32) * V::rows_per_warp / V::block_q;
  const float* correction = correction_of(p, q, block, V::head_dim);
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
        if (correction != nullptr && inverse[row] != 0.0f) x[i] += correction[channel + i];
      }
      uint8_t* target = rows + (lane / 4 + row * 8) * output_row_bytes<V> + channel * 2;
      *reinterpret_cast<uint32_t*>(target) = pair_from_floats(x[0], x[1], p.is_bfloat16);
    }
  }
}

// `tile`: output_bytes of shared memory, of which a warp touches only its own rows. Output rows
// past the sequence's length are 0.
template <class V>
PTX_FN void store_output(const AttentionParams& p, const QueryBlock& q,
                         const RowState (&state)[row_fragments<V>], const Output<V>& out,
                         uint8_t* tile) {
  constexpr int pitch = output_row_bytes<V>, chunks = V::head_dim / 8;
  const Geometry& g = p.geometry;
  const int first_row = static_cast<int>(threadIdx.x / 32) * V::rows_per_warp;
  const uint64_t policy = ptx::evict_first_policy();
#pragma unroll
  for (int a = 0; a < row_fragments<V>; a++) {
    write_rows<V>(p, q, state[a], out[a], tile + (first_row + a * 16) * pitch);
  }
  __syncwarp();  // sync: the warp's rows are in shared memory
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x % 32); i < V::rows_per_warp * chunks; i += 32) {
    const int row = first_row + i / chunks, position = q.index * V::block_q + row;
    if (position >= g.tokens) continue;
    const uint4 chunk = *reinterpret_cast<const uint4*>(tile + row * pitch + i % chunks * 16);
    const int64_t element = element_at(g, q, token_at(g, q.order, position), V::head_dim);
    auto* target = static_cast<uint16_t*>(p.output) + element + i % chunks * 8;
    ptx::store_with_policy(target, position < q.length ? chunk : uint4{}, policy);
  }
}

}  // namespace paro::kernels::sparse_attention
