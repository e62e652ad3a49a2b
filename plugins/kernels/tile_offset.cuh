// Where the bytes of a tile lie in shared memory: rows of 16-byte chunks, permuted so that the
// eight rows that an instruction reads at once lie in eight different groups of banks. For rows of
// 64 and 128 bytes it is the swizzle of that length that wgmma and TMA have.
#pragma once

#include "kernels/device_plan.cuh"

namespace paro::kernels {

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

}  // namespace paro::kernels
