// Tiles in shared memory: rows of 16-byte chunks, permuted so that the eight rows an ldmatrix reads
// lie in eight different groups of banks.
#pragma once

#include "kernels/device_plan.cuh"
#include "ptx/cp_async.cuh"

namespace paro::kernels::sparse_attention {

// Offset of chunk `chunk` of row `row`. Rows shorter than 128 bytes share a bank line, so that the
// chunk changes once a line. The permutation has a period of 8 rows, and bits of `chunk` that are
// not in a lane's own address may be applied by XOR afterwards.
template <int RowBytes>
DEVICE_FN uint32_t tile_offset(uint32_t row, uint32_t chunk) {
  constexpr uint32_t chunks = RowBytes / 16;
  constexpr uint32_t rows_per_line = RowBytes < 128 ? 128 / RowBytes : 1;
  constexpr uint32_t mask = (chunks < 8 ? chunks : 8) - 1;
  return row * RowBytes + ((chunk ^ (row / rows_per_line & mask)) << 4);
}

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
