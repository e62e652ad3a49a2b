// Copies of tiles to shared memory, where their rows are permuted.
#pragma once

#include "kernels/tile_offset.cuh"
#include "ptx/cp_async.cuh"

namespace paro::kernels::sparse_attention {

// cp.async of a dense tile by all threads of the block. A warp takes consecutive bytes: what one of
// its lanes copies lies near enough together for the offsets that instructions hold.
template <int RowBytes, int Rows, int Threads>
DEVICE_FN void copy_tile(uint32_t tile, const uint8_t* source) {
  constexpr uint32_t pass_bytes = 32 * 16, pass_rows = pass_bytes / RowBytes;
  constexpr uint32_t passes = RowBytes * Rows / (Threads * 16);
  static_assert(RowBytes * Rows % (Threads * 16) == 0, "every thread copies as many chunks");
  static_assert(pass_rows * passes % 8 == 0 || passes == 1, "a warp starts where the swizzle does");
  const uint32_t first = threadIdx.x / 32 * (passes * pass_bytes) + threadIdx.x % 32 * 16;
  const uint32_t to = tile + tile_offset<RowBytes>(first / RowBytes, first % RowBytes / 16);
#pragma unroll
  for (uint32_t i = 0; i < passes; i++) {
    // Rows on: their part of the permutation, which has no carry, then a constant distance.
    const uint32_t permuted = tile_offset<RowBytes>(i * pass_rows % 8, 0) % RowBytes;
    ptx::cp_async_16((to ^ permuted) + i * pass_bytes, source + first + i * pass_bytes);
  }
}

}  // namespace paro::kernels::sparse_attention
