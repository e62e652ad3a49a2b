// Dot products for mma.sync and wgmma, on operands that are already gathered from fragments.
// Integer sums wrap around, as on hardware without .satfinite.
#pragma once

#include <cstdint>

namespace paro::emulator {

// c[row][column] += sum over k of a[row][k] * b[column][k]; all row-major, k is 32 or 64.
void multiply_accumulate(const int16_t* a, const int16_t* b, int32_t* c, int rows, int columns,
                         int k);
// The same in float, k is 16.
void multiply_accumulate(const float* a, const float* b, float* c, int rows, int columns, int k);

}  // namespace paro::emulator
