// Vectors of floats in the width of the instruction set, by the compiler's vector extension.
//
// Everything below isa/ is compiled once for each instruction set, inside its own namespace: an
// inline function shared with another translation unit could bring AVX-512 code to a machine
// that has none. For the same reason nothing here includes the C++ standard library.
#pragma once

#include <cstdint>

#ifndef PARO_ISA
#error "define PARO_ISA (a namespace) and PARO_VECTOR_FLOATS before including isa/*.h"
#endif

namespace paro::cpu::PARO_ISA {

constexpr int kVector = PARO_VECTOR_FLOATS;
typedef float Vector __attribute__((vector_size(kVector * sizeof(float))));
typedef int32_t VectorInt __attribute__((vector_size(kVector * sizeof(int32_t))));

constexpr float kMinusInfinity = -__builtin_inff();

inline Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }
inline Vector splat(float x) { return x - Vector{}; }

// A NaN in `x` is passed over; one in `maximum` stays.
inline Vector max_ignoring_nan(Vector maximum, Vector x) { return x > maximum ? x : maximum; }

// Adding and taking away 1.5 * 2^23 rounds to an integer, halves to even, for |x| < 2^22.
constexpr float kRoundingBias = 12582912.0f;
inline Vector round_half_even(Vector x) { return (x + kRoundingBias) - kRoundingBias; }

// 2^x for x <= 0, within 1 ulp; 0 below -126; NaN stays NaN.
inline Vector exp2_not_positive(Vector x) {
  const Vector biased = x + kRoundingBias;
  const Vector fraction = x - (biased - kRoundingBias);
  // Minimax in relative error on [-0.5, 0.5] with the constant term fixed at 1: 8e-8 at most.
  Vector p = splat(1.5353361960e-04f);
  p = p * fraction + 1.3398873853e-03f;
  p = p * fraction + 9.6184369177e-03f;
  p = p * fraction + 5.5503323674e-02f;
  p = p * fraction + 2.4022647738e-01f;
  p = p * fraction + 6.9314718246e-01f;
  p = p * fraction + 1.0f;
  const VectorInt exponent = reinterpret_cast<VectorInt>(biased) << 23;
  const Vector result = reinterpret_cast<Vector>(reinterpret_cast<VectorInt>(p) + exponent);
  return x < -126.0f ? Vector{} : result;
}

}  // namespace paro::cpu::PARO_ISA
