// The rotation of smoothed queries and keys: signs, then a Hadamard transform over sqrt(D), with
// the order of operations that the op specifies (paro_trt/op/smoothing.py).
#pragma once

#include "vector.h"

namespace paro::cpu::PARO_ISA {

// The sums and differences of lanes that are `stride` apart.
inline Vector sums_and_differences(Vector x, int stride) {
  VectorInt partner, sign;
  for (int i = 0; i < kVector; ++i) {
    partner[i] = i ^ stride;
    sign[i] = (i & stride) != 0 ? static_cast<int32_t>(0x80000000) : 0;
  }
  const Vector other = __builtin_shuffle(x, partner);
  return other + reinterpret_cast<Vector>(float_to_bits(x) ^ sign);
}

// x [D] in place; signs [D]. No product of x before it or in it is joined with a sum.
inline void rotate(float* x, const int32_t* signs, int head_dim) {
  keep_rounded(x);
  for (int d = 0; d < head_dim; d += kVector) {
    VectorInt negative;
    __builtin_memcpy(&negative, signs + d, sizeof negative);
    const Vector own = load(x + d);
    Vector sum = negative < 0 ? -own : own;
#pragma GCC unroll 4
    for (int stride = 1; stride < kVector; stride *= 2) sum = sums_and_differences(sum, stride);
    store(x + d, sum);
  }
  for (int stride = kVector; stride < head_dim; stride *= 2) {
    for (int first = 0; first < head_dim; first += 2 * stride) {
      for (int d = first; d < first + stride; d += kVector) {
        const Vector lower = load(x + d), upper = load(x + d + stride);
        store(x + d, lower + upper);
        store(x + d + stride, lower - upper);
      }
    }
  }
  const float factor = static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(head_dim)));
  for (int d = 0; d < head_dim; d += kVector) store(x + d, load(x + d) * factor);
  keep_rounded(x);
}

}  // namespace paro::cpu::PARO_ISA
