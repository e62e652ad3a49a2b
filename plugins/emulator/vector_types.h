// CUDA's built-in vector types that the kernels use, for builds without CUDA headers.
#pragma once

#include <cstdint>

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#define PARO_VECTOR_TYPE_2(name, element)    \
  struct alignas(2 * sizeof(element)) name { \
    element x, y;                            \
  };                                         \
  constexpr name make_##name(element x, element y) { return {x, y}; }
#define PARO_VECTOR_TYPE_4(name, element)    \
  struct alignas(4 * sizeof(element)) name { \
    element x, y, z, w;                      \
  };                                         \
  constexpr name make_##name(element x, element y, element z, element w) { return {x, y, z, w}; }

PARO_VECTOR_TYPE_2(int2, int)
PARO_VECTOR_TYPE_2(uint2, unsigned)
PARO_VECTOR_TYPE_2(float2, float)
PARO_VECTOR_TYPE_4(char4, signed char)
PARO_VECTOR_TYPE_4(uchar4, unsigned char)
PARO_VECTOR_TYPE_4(int4, int)
PARO_VECTOR_TYPE_4(uint4, unsigned)
PARO_VECTOR_TYPE_4(float4, float)

#undef PARO_VECTOR_TYPE_2
#undef PARO_VECTOR_TYPE_4

struct uint3 {
  unsigned x, y, z;
};
