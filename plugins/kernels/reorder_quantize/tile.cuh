// A key block in registers and in shared memory: which rows and channels each thread holds.
#pragma once

#include "kernels/quantize.cuh"

namespace paro::kernels::reorder_quantize {

// A thread holds eight channels, from `first_channel`, of rows first_row, first_row + row_stride,
// ... The rows of a thread are those that the first halvings of the mean add.
template <int D, int BlockK>
struct TileMap {
  // A thread has four rows, or eight of the longer blocks: what a warp does once a block (exchanges,
  // divisions, addresses) is then little for each element.
  static constexpr int threads = D == 64 ? 128 : 256;
  static constexpr int warps = threads / 32;
  static constexpr int lanes_per_row = D / 8;
  static constexpr int row_stride = threads / lanes_per_row;
  static constexpr int rows_per_thread = BlockK / row_stride;
  static_assert(BlockK % row_stride == 0, "every thread holds the same number of rows");
  static_assert(row_stride == 16, "rows of a thread differ in the upper bits of their number");

  int first_row, first_channel;

  DEVICE_FN TileMap of_thread() {
    return {static_cast<int>(threadIdx.x / lanes_per_row),
            static_cast<int>(threadIdx.x % lanes_per_row * 8)};
  }
  __device__ __forceinline__ int row(int i) const { return first_row + i * row_stride; }
};

template <int D, int BlockK>
using Rows = Channels8[TileMap<D, BlockK>::rows_per_thread];

template <int D, int BlockK>
using RawRows = uint4[TileMap<D, BlockK>::rows_per_thread];

// A partial result of each channel from each thread of a column: [threads of a column][D].
template <int D, int BlockK>
using Partials = float[TileMap<D, BlockK>::row_stride][D];

template <int D, int BlockK>
struct alignas(16) SharedMemory {
  using Map = TileMap<D, BlockK>;
  // 16 more bytes a row: the transpose reads eight rows at once, which then lie in different banks.
  static constexpr int code_row_bytes = D + 16;

  // What cp.async has fetched for the next block. A thread reads only what it has copied itself.
  uint4 fetched[Map::rows_per_thread][Map::threads];
  Partials<D, BlockK> sums;
  Partials<D, BlockK> magnitudes;
  uint8_t codes[BlockK][code_row_bytes];
  float shift[D];
  float factor[D];
  float inverse[D];  // of a channel's scale
  uint4 warp_magnitudes[Map::warps / 4];
};

}  // namespace paro::kernels::reorder_quantize
