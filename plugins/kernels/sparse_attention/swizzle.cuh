// Copies of tiles to shared memory, where their rows are permuted.
#pragma once

#include "kernels/tile_offset.cuh"
#include "ptx/cp_async.cuh"

namespace paro::kernels::sparse_attention {

// cp.async of a dense tile by all threads of the block.
template <int RowBytes, int Rows, int Threads>
DEVICE_FN void copy_tile(uint32_t tile, const uint8_t* source) {
  constexpr uint32_t chunks = RowBytes / 16, rows_per_pass = Threads / chunks;
  static_assert(Rows % rows_per_pass == 0, "every thread copies the same number of chunks");
  const uint32_t row = threadIdx.x / chunks, chunk = threadIdx.x % chunks;
  const uint8_t* from = source + threadIdx.x * 16;
  const uint32_t to = tile + tile_offset<RowBytes>(row, chunk);
#pragma unroll
  for (uint32_t i = 0; i < Rows / rows_per_pass; i++) {
    // Whole periods of the swizzle are a constant distance, which the instruction holds.
    const uint32_t target = rows_per_pass % 8 == 0
                                ? to + i * rows_per_pass * RowBytes
                                : tile + tile_offset<RowBytes>(row + i * rows_per_pass, chunk);
    ptx::cp_async_16(target, from + i * Threads * 16);
  }
}

}  // namespace paro::kernels::sparse_attention
