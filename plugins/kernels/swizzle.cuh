// The swizzle of tiles in shared memory: rows of 16-byte chunks, permuted so that the eight rows
// that one instruction reads lie in eight different groups of banks. For rows of 64 and 128 bytes
// it is the swizzle of that length that wgmma and TMA define.
#pragma once

#include "kernels/device_plan.cuh"

namespace paro::kernels {

// The swizzle has a period of 8 rows, 1,024 bytes where rows have 128: tiles start at a multiple.
constexpr int swizzle_alignment = 1024;

// Offset of chunk `chunk` of row `row` in a tile. Rows shorter than 128 bytes share a line of the
// banks, so the permutation changes once a line. Bits of `chunk` that are the same in all lanes can
// be applied to the offset later, by XOR.
template <int RowBytes>
DEVICE_FN uint32_t swizzled_offset(uint32_t row, uint32_t chunk) {
  constexpr uint32_t chunks = RowBytes / 16;
  constexpr uint32_t rows_per_line = RowBytes < 128 ? 128 / RowBytes : 1;
  constexpr uint32_t mask = (chunks < 8 ? chunks : 8) - 1;
  return row * RowBytes + ((chunk ^ (row / rows_per_line & mask)) << 4);
}

}  // namespace paro::kernels
