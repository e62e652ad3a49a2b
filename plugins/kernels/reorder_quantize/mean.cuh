// The mean of a key block's tokens: its summary token before quantization.
#pragma once

#include "kernels/reorder_quantize/load.cuh"

namespace paro::kernels::reorder_quantize {

// Adds halves of the block until one row is left, which is the reference's order of FP32 sums, and
// divides by the number of tokens that exist. At 16 bits the mean is rounded to the inputs' type.
// __fadd_rn: the compiler may fuse a plain sum with the product that made one of its terms (apply
// in load.cuh), which would round once instead of twice.
template <Number Source, int D, int BlockK>
DEVICE_FN void store_mean(const ReorderParams& p, Side side, const Unit& unit, int block,
                          const TileMap<D, BlockK>& map,
                          const Channels8 (&rows)[TileMap<D, BlockK>::rows_per_thread],
                          SharedMemory<D, BlockK>& shared) {
  using Map = TileMap<D, BlockK>;
  const int thread = static_cast<int>(threadIdx.x);
  // The rows of a thread are row_stride apart, so the first halvings add its own rows.
#pragma unroll
  for (int channel = 0; channel < 8; channel++) {
    float sums[Map::rows_per_thread];
#pragma unroll
    for (int i = 0; i < Map::rows_per_thread; i++) sums[i] = rows[i].x[channel];
#pragma unroll
    for (int half = Map::rows_per_thread / 2; half > 0; half /= 2) {
#pragma unroll
      for (int i = 0; i < half; i++) sums[i] = __fadd_rn(sums[i], sums[i + half]);
    }
    shared.row_sums[map.first_row][map.first_channel + channel] = sums[0];
  }
  for (int half = Map::row_stride / 2; half > 0; half /= 2) {
    __syncthreads();  // sync: rows of this level are written
    for (int i = thread; i < half * D; i += threads) {
      float& sum = shared.row_sums[i / D][i % D];
      sum = __fadd_rn(sum, shared.row_sums[i / D + half][i % D]);
    }
  }
  __syncthreads();  // sync: the last level is written
  const int length = length_of(p.geometry, p.plan, unit.sample);
  const int count = min(max(length - block * BlockK, 1), BlockK);
  const int64_t row = static_cast<int64_t>(unit.index) * p.geometry.key_blocks + block;
  float* mean = (side == Side::key ? p.means.key : p.means.value) + row * D;
  const Number number = side == Side::key ? p.key_number : p.value_number;
  for (int channel = thread; channel < D; channel += threads) {
    float x = __fdiv_rn(shared.row_sums[0][channel], static_cast<float>(count));
    if (!is_integer(number)) {
      const bool is_bfloat16 = Source == Number::bf16;
      x = floats_from_pair(pair_from_floats(x, 0.0f, is_bfloat16), is_bfloat16).x;
    }
    mean[channel] = x;
  }
  __syncthreads();  // sync: shared memory is free for its next use
}

}  // namespace paro::kernels::reorder_quantize
