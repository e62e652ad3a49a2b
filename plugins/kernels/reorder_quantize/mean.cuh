// The mean of a key block's tokens: its summary token before quantization.
#pragma once

#include "kernels/reorder_quantize/load.cuh"

namespace paro::kernels::reorder_quantize {

// Adds halves until one is left, which is the reference's order of FP32 sums. __fadd_rn: the
// compiler may fuse a plain sum with the product that made one of its terms (apply in load.cuh),
// which would round once instead of twice.
template <int Count>
DEVICE_FN float sum_of_halves(const float (&terms)[Count]) {
  if constexpr (Count == 1) {
    return terms[0];
  } else {
    float halves[Count / 2];
#pragma unroll
    for (int i = 0; i < Count / 2; i++) halves[i] = __fadd_rn(terms[i], terms[i + Count / 2]);
    return sum_of_halves(halves);
  }
}

// Writes the sums of each thread's rows. The rows of a thread are row_stride apart, so these are
// the first halvings of the block.
template <int D, int BlockK>
DEVICE_FN void write_sums(const TileMap<D, BlockK>& map, const Rows<D, BlockK>& rows,
                          SharedMemory<D, BlockK>& shared) {
  Channels8 sums;
#pragma unroll
  for (int channel = 0; channel < 8; channel++) {
    float terms[TileMap<D, BlockK>::rows_per_thread];
#pragma unroll
    for (int i = 0; i < TileMap<D, BlockK>::rows_per_thread; i++) terms[i] = rows[i].x[channel];
    sums.x[channel] = sum_of_halves(terms);
  }
  write_channels(sums, &shared.sums[map.first_row][map.first_channel]);
}

// Adds the sums of all threads of a channel and divides by `count`.
template <int D, int BlockK>
DEVICE_FN float mean_of_channel(int channel, int count, const SharedMemory<D, BlockK>& shared) {
  float terms[TileMap<D, BlockK>::row_stride];
#pragma unroll
  for (int i = 0; i < TileMap<D, BlockK>::row_stride; i++) terms[i] = shared.sums[i][channel];
  return __fdiv_rn(sum_of_halves(terms), static_cast<float>(count));
}

// Stores the block's mean: a thread for each channel. At 16 bits it is rounded to the inputs' type.
template <Number Source, Number Stored, int D, int BlockK>
DEVICE_FN void store_mean(const ReorderParams& p, Side side, const Unit& unit, int block,
                          int count, const SharedMemory<D, BlockK>& shared) {
  const int channel = static_cast<int>(threadIdx.x);
  if (channel >= D) return;
  float x = mean_of_channel(channel, count, shared);
  if (!is_integer(Stored)) {
    const bool is_bfloat16 = Source == Number::bf16;
    x = floats_from_pair(pair_from_floats(x, 0.0f, is_bfloat16), is_bfloat16).x;
  }
  const int64_t row = static_cast<int64_t>(unit.index) * p.geometry.key_blocks + block;
  (side == Side::key ? p.means.key : p.means.value)[row * D + channel] = x;
}

}  // namespace paro::kernels::reorder_quantize
