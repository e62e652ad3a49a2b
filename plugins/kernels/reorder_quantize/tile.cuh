// A key block in registers and in shared memory: which rows and channels each thread holds.
#pragma once

#include "kernels/quantize.cuh"

namespace paro::kernels::reorder_quantize {

constexpr int threads = 256;
constexpr int warps = threads / 32;

// A thread holds eight channels, from `first_channel`, of rows first_row, first_row + row_stride,
// ...
template <int D, int BlockK>
struct TileMap {
  static constexpr int lanes_per_row = D / 8;
  static constexpr int row_stride = threads / lanes_per_row;
  static constexpr int rows_per_thread = BlockK / row_stride;
  static_assert(BlockK % row_stride == 0, "every thread holds the same number of rows");

  int first_row, first_channel;

  DEVICE_FN TileMap of_thread() {
    const int thread = static_cast<int>(threadIdx.x);
    return {thread / lanes_per_row, thread % lanes_per_row * 8};
  }
};

// Shared memory. The members are used one after the other.
template <int D, int BlockK>
union SharedMemory {
  uint32_t warp_magnitude[warps];
  uint32_t channel_magnitude[warps][D];
  float row_sums[TileMap<D, BlockK>::row_stride][D];
  // Four more bytes a row: the transpose reads columns, which then lie in different banks.
  uint8_t codes[BlockK][D + 4];
};

}  // namespace paro::kernels::reorder_quantize
