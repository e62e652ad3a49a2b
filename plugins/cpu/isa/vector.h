// Vectors of floats in the width of the instruction set, with the compiler's vector extension.
//
// Everything in isa/ is compiled once for each instruction set, in a namespace of its own. An
// inline function shared with another translation unit could bring AVX-512 code to a machine
// without it. For the same reason, nothing here includes the C++ standard library.
#pragma once

#include <cstdint>

#if !defined(PARO_ISA) || !defined(PARO_VECTOR_FLOATS)
#error "define PARO_ISA (a namespace) and PARO_VECTOR_FLOATS for the translation unit"
#endif

namespace paro::cpu::PARO_ISA {

constexpr int kVector = PARO_VECTOR_FLOATS;
typedef float Vector __attribute__((vector_size(kVector * sizeof(float))));
typedef int32_t VectorInt __attribute__((vector_size(kVector * sizeof(int32_t))));
typedef uint32_t VectorUnsigned __attribute__((vector_size(kVector * sizeof(uint32_t))));

constexpr int kLargestHeadDim = 128, kLargestBlock = 128;
constexpr float kMinusInfinity = -__builtin_inff();

// `p` must be aligned to a vector. Its elements are four bytes of any type.
template <class V = Vector>
inline V load(const void* p) {
  V v;
  __builtin_memcpy(&v, __builtin_assume_aligned(p, sizeof v), sizeof v);
  return v;
}
inline Vector load_unaligned(const float* p) {
  Vector v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class V>
inline void store(void* p, V v) {
  __builtin_memcpy(__builtin_assume_aligned(p, sizeof v), &v, sizeof v);
}

inline Vector splat(float x) { return x - Vector{}; }
inline VectorInt splat(int32_t x) { return x - VectorInt{}; }
inline VectorInt float_to_bits(Vector x) { return reinterpret_cast<VectorInt>(x); }

// The compiler joins products and sums into operations that round once. What follows this takes
// what lies at x as it has been rounded.
inline void keep_rounded(const float* x) { __asm__ volatile("" : : "r"(x) : "memory"); }

// Ignores a NaN in `x` and keeps a NaN in `maximum`.
inline Vector max_ignoring_nan(Vector maximum, Vector x) { return x > maximum ? x : maximum; }

// Adding 1.5 * 2^23 rounds to an integer, halves to even, for |x| < 2^22. The low bits of the sum
// are that integer, and subtracting the bias gives it as a float.
constexpr float kRoundingBias = 12582912.0f;
constexpr int32_t kRoundingBiasBits = 0x4B400000;

// kScale * 2^x as mantissa * 2^exponent, with the exponent already at its place among a float's
// bits. The type is unsigned: where x is out of range, sums with it wrap and their result is not
// used.
struct Exp2 {
  Vector mantissa;
  VectorUnsigned exponent;
};

// Computes it for x * factor. With FMA, the product is not rounded on its own.
template <int kScale>
inline Exp2 exp2_of_product(Vector x, Vector factor) {
  const Vector biased = x * factor + kRoundingBias;
  const Vector fraction = x * factor - (biased - kRoundingBias);
  // Minimax in relative error on [-0.5, 0.5] with the constant term fixed at 1. Its error is
  // 9.2e-8.
  Vector p = splat(kScale * 1.3264727206e-03f);
  p = p * fraction + kScale * 9.6715126501e-03f;
  p = p * fraction + kScale * 5.5507337433e-02f;
  p = p * fraction + kScale * 2.4022242085e-01f;
  p = p * fraction + kScale * 6.9314697760e-01f;
  p = p * fraction + static_cast<float>(kScale);
  return {p, reinterpret_cast<VectorUnsigned>(biased) << 23};
}

// 2^(x * factor) for products <= 0, within 2 ulp. The result is 0 below -126, and NaN for NaN.
inline Vector exp2_not_positive(Vector x, Vector factor) {
  const Exp2 power = exp2_of_product<1>(x, factor);
  // This multiplies instead of adding to the exponent bits, which would turn some NaN into numbers.
  const Vector result = power.mantissa * reinterpret_cast<Vector>(power.exponent + 0x3F800000u);
  return x * factor < -126.0f ? Vector{} : result;
}
inline Vector exp2_not_positive(Vector x) { return exp2_not_positive(x, splat(1.0f)); }

// Transposes the kVector x kVector words in `row` with log2(kVector) perfect shuffles.
inline void transpose_square(VectorInt row[kVector]) {
  VectorInt low, high;
  for (int i = 0; i < kVector; ++i) {
    low[i] = i / 2 + i % 2 * kVector;
    high[i] = low[i] + kVector / 2;
  }
#pragma GCC unroll 4
  for (int step = 1; step < kVector; step *= 2) {
    VectorInt next[kVector];
#pragma GCC unroll 16
    for (int i = 0; i < kVector / 2; ++i) {
      next[2 * i] = __builtin_shuffle(row[i], row[i + kVector / 2], low);
      next[2 * i + 1] = __builtin_shuffle(row[i], row[i + kVector / 2], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kVector; ++i) row[i] = next[i];
  }
}

// Words [rows][columns] -> [columns][rows]. Both sizes are multiples of kVector; strides in words.
inline void transpose(const void* from, int from_stride, int rows, int columns, void* to,
                      int to_stride) {
  for (int r = 0; r < rows; r += kVector) {
    for (int c = 0; c < columns; c += kVector) {
      VectorInt square[kVector];
      const int32_t* source = static_cast<const int32_t*>(from) + r * from_stride + c;
      int32_t* target = static_cast<int32_t*>(to) + c * to_stride + r;
#pragma GCC unroll 16
      for (int i = 0; i < kVector; ++i) square[i] = load<VectorInt>(source + i * from_stride);
      transpose_square(square);
#pragma GCC unroll 16
      for (int i = 0; i < kVector; ++i) store(target + i * to_stride, square[i]);
    }
  }
}

}  // namespace paro::cpu::PARO_ISA
