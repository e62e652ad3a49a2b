// mma.sync.m16n8: c += A B with A 16 x K row-major, B K x 8 column-major.
// PTX ISA, "Matrix multiply-accumulate operation using mma instruction".
//
// Fragments of lane t, with g = t / 4, i = t % 4 and E elements in a 32-bit register (2, 4, 8):
//   A  a[0]: row g,  K from i E;   a[1]: row g + 8, same K;  a[2], a[3]: the same rows, K + K/2
//   B  b[0]: column g, K from i E; b[1]: K + K/2
//   C  c[0], c[1]: row g, columns 2 i and 2 i + 1;  c[2], c[3]: row g + 8
// Integer sums wrap around. The `_from` forms start a chain: c = A B + start, with nothing that
// would first copy `start` to the accumulators.
#pragma once

#include "ptx/platform.cuh"

#if PARO_EMULATED
#define PARO_MMA(shape_and_types, constraint, types) \
  emulator::multiply_matrices(emulator::MmaTypes::types, c, a, b, place)
#define PARO_MMA_FROM(shape_and_types, constraint, types) \
  for (int i = 0; i < 4; i++) c[i] = start[i];            \
  emulator::multiply_matrices(emulator::MmaTypes::types, c, a, b, place)
#else
#define PARO_MMA(shape_and_types, constraint, types)                                    \
  (void)place;                                                                          \
  asm volatile("mma.sync.aligned." shape_and_types                                      \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"       \
               : constraint(c[0]), constraint(c[1]), constraint(c[2]), constraint(c[3]) \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#define PARO_MMA_FROM(shape_and_types, constraint, types)                                  \
  (void)place;                                                                             \
  asm volatile("mma.sync.aligned." shape_and_types                                         \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"      \
               : "=" constraint(c[0]), "=" constraint(c[1]), "=" constraint(c[2]),         \
                 "=" constraint(c[3])                                                      \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]),         \
                 constraint(start[0]), constraint(start[1]), constraint(start[2]), constraint(start[3]))
#endif

namespace paro::ptx {

// m16n8k32, signed 8 bit.
PTX_FN void mma_s8_s8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                      Place place = Place::current()) {
  PARO_MMA("m16n8k32.row.col.s32.s8.s8.s32", "+r", s8_s8);
}

// m16n8k32, A unsigned and B signed 8 bit.
PTX_FN void mma_u8_s8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                      Place place = Place::current()) {
  PARO_MMA("m16n8k32.row.col.s32.u8.s8.s32", "+r", u8_s8);
}

// m16n8k64, signed 4 bit. Native on sm_80 to sm_89; many 8-bit instructions from sm_90 on.
PTX_FN void mma_s4_s4(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                      Place place = Place::current()) {
  PARO_MMA("m16n8k64.row.col.s32.s4.s4.s32", "+r", s4_s4);
}

// m16n8k64, A unsigned and B signed 4 bit; as above.
PTX_FN void mma_u4_s4(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                      Place place = Place::current()) {
  PARO_MMA("m16n8k64.row.col.s32.u4.s4.s32", "+r", u4_s4);
}

// m16n8k16, FP16 with FP32 accumulation.
PTX_FN void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                    Place place = Place::current()) {
  PARO_MMA("m16n8k16.row.col.f32.f16.f16.f32", "+f", f16_f16);
}

// m16n8k16, BF16 with FP32 accumulation.
PTX_FN void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                     Place place = Place::current()) {
  PARO_MMA("m16n8k16.row.col.f32.bf16.bf16.f32", "+f", bf16_bf16);
}

PTX_FN void mma_s8_s8_from(const int32_t (&start)[4], int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                           Place place = Place::current()) {
  PARO_MMA_FROM("m16n8k32.row.col.s32.s8.s8.s32", "r", s8_s8);
}

PTX_FN void mma_u8_s8_from(const int32_t (&start)[4], int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                           Place place = Place::current()) {
  PARO_MMA_FROM("m16n8k32.row.col.s32.u8.s8.s32", "r", u8_s8);
}

PTX_FN void mma_s4_s4_from(const int32_t (&start)[4], int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                           Place place = Place::current()) {
  PARO_MMA_FROM("m16n8k64.row.col.s32.s4.s4.s32", "r", s4_s4);
}

PTX_FN void mma_u4_s4_from(const int32_t (&start)[4], int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                           Place place = Place::current()) {
  PARO_MMA_FROM("m16n8k64.row.col.s32.u4.s4.s32", "r", u4_s4);
}

PTX_FN void mma_f16_from(const float (&start)[4], float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         Place place = Place::current()) {
  PARO_MMA_FROM("m16n8k16.row.col.f32.f16.f16.f32", "f", f16_f16);
}

PTX_FN void mma_bf16_from(const float (&start)[4], float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                          Place place = Place::current()) {
  PARO_MMA_FROM("m16n8k16.row.col.f32.bf16.bf16.f32", "f", bf16_bf16);
}

}  // namespace paro::ptx

#undef PARO_MMA_FROM
#undef PARO_MMA
