// Warp-wide matrix instructions: ldmatrix and mma.sync.
#pragma once

#include <cstdint>

#include "emulator/diagnosis.h"

namespace paro::emulator {

// ldmatrix.m8n8.x4.b16 loads four matrices. Lane 8 * m + i gives the address of row i of matrix m.
// Thread t receives element (t / 4, 2 * (t % 4)) and the next one, of each matrix or of its
// transpose.
void load_matrices(uint32_t (&registers)[4], bool transpose, uint32_t address, const Place& place);

// Element types of A and B.
enum class MmaTypes { s8_s8, u8_s8, s4_s4, u4_s4, f16_f16, bf16_bf16 };

// c += A B of one m16n8 tile. A is 16 x K row-major, B is K x 8 column-major. K is 16 for 16-bit
// elements, 32 for 8-bit and 64 for 4-bit ones.
void multiply_matrices(MmaTypes types, int32_t (&c)[4], const uint32_t (&a)[4],
                       const uint32_t (&b)[2], const Place& place);
void multiply_matrices(MmaTypes types, float (&c)[4], const uint32_t (&a)[4],
                       const uint32_t (&b)[2], const Place& place);

}  // namespace paro::emulator
