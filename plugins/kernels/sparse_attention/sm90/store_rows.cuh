// Epilogue: normalise the output, undo the value affine, and scatter the rows to the original token
// order. It needs no shared memory, in which the next tile's steps already arrive.
#pragma once

#include "kernels/sparse_attention/sm90/ring.cuh"

#if PARO_HAS_WGMMA

namespace paro::kernels::sparse_attention::sm90 {

// Word i of lane j of a quad becomes word j of lane i.
DEVICE_FN void transpose_quad(uint32_t (&words)[4]) {
#pragma unroll
  for (int distance = 1; distance < 4; distance *= 2) {
    const bool is_upper = (static_cast<int>(threadIdx.x) & distance) != 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if ((i & distance) != 0) continue;
      const uint32_t sent = is_upper ? words[i] : words[i + distance];
      const uint32_t received = __shfl_xor_sync(~0u, sent, distance);
      words[i] = is_upper ? received : words[i];
      words[i + distance] = is_upper ? words[i + distance] : received;
    }
  }
}

// By a warp, of its 16 rows. A lane has two channels of each run of eight; four lanes exchange them,
// so that each stores 16 bytes. Rows that attend nothing, and those past the sequence's length, are 0.
template <class V>
DEVICE_FN void store_rows(const AttentionParams& p, const TileData<V>& tile, const RowState& state,
                          const Output<V>& out) {
  const QueryBlock& q = tile.work;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int first_row = static_cast<int>(threadIdx.x / 32) * V::rows_per_warp + lane / 4;
  const float* correction = correction_of(p, q, first_row / V::block_q, V::head_dim);
  const uint64_t policy = ptx::evict_first_policy();
  float inverse[2];
  invert_sums(state, inverse);
  uint16_t* target[2];
  bool exists[2], has_token[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int row = first_row + i * 8, position = q.index * V::block_q + row;
    exists[i] = position < p.geometry.tokens;
    has_token[i] = position < q.length;
    target[i] = static_cast<uint16_t*>(p.output) +
                element_at(p.geometry, q, tile.token[row], V::head_dim) + lane % 4 * 8;
  }
#pragma unroll
  for (int d = 0; d < V::head_dim / 8; d += 4) {
    uint32_t words[2][4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int channel = (d + j) * 8 + lane % 4 * 2;
#pragma unroll
      for (int row = 0; row < 2; row++) {
        float x[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
          x[i] = out[0][d + j][2 * row + i] * inverse[row];
          x[i] = inverse[row] == 0.0f ? 0.0f
                                      : fmaf(x[i], tile.value_scale[channel + i],
                                             tile.value_mean[channel + i]);
          if (correction != nullptr && inverse[row] != 0.0f) x[i] += correction[channel + i];
        }
        words[row][j] = pair_from_floats(x[0], x[1], p.is_bfloat16);
      }
    }
#pragma unroll
    for (int row = 0; row < 2; row++) {
      transpose_quad(words[row]);
      if (!exists[row]) continue;
      const uint4 chunk{words[row][0], words[row][1], words[row][2], words[row][3]};
      ptx::store_with_policy(target[row] + d * 8, has_token[row] ? chunk : uint4{}, policy);
    }
  }
}

}  // namespace paro::kernels::sparse_attention::sm90

#endif  // PARO_HAS_WGMMA
