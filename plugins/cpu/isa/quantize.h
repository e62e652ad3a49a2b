// Quantization as the op specifies it (paro_trt/op/quantization.py): in FP32, with a fixed order of
// operations.
#pragma once

#include "operands.h"

namespace paro::cpu::PARO_ISA {

constexpr float kSmallestMaximum = 0x1p-100f;

#if defined(__aarch64__)
typedef __fp16 Float16;  // g++ has _Float16 on this architecture only since version 13
#else
typedef _Float16 Float16;
#endif

inline float levels_of(int bits) { return bits == 8 ? 127.0f : 7.0f; }

inline float load_element(const void* base, int64_t index, int32_t dtype) {
  if (dtype == PARO_FLOAT32) return static_cast<const float*>(base)[index];
  if (dtype == PARO_FLOAT16) return static_cast<float>(static_cast<const Float16*>(base)[index]);
  const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(base)[index]) << 16;
  return __builtin_bit_cast(float, bits);
}

inline void store_element(void* base, int64_t index, int32_t dtype, float x) {
  if (dtype == PARO_FLOAT32) {
    static_cast<float*>(base)[index] = x;
  } else if (dtype == PARO_FLOAT16) {
    static_cast<Float16*>(base)[index] = static_cast<Float16>(x);
  } else {
    const uint32_t bits = __builtin_bit_cast(uint32_t, x);
    const bool nan = x != x;
    const uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    static_cast<uint16_t*>(base)[index] = static_cast<uint16_t>(nan ? 0x7FC0 : rounded);
  }
}

// Prefetches a row before it is read or written, because the order of the rows is one that hardware
// prefetchers cannot predict. Always inlined: g++ treats a function that only prefetches as one
// without effect, and removes calls of it.
__attribute__((always_inline)) inline void prefetch_row(const void* base, int64_t first,
                                                        int32_t head_dim, int32_t dtype) {
  const int64_t size = dtype == PARO_FLOAT32 ? 4 : 2;
  const char* row = static_cast<const char*>(base) + first * size;
  for (int64_t i = 0; i < head_dim * size; i += 64) __builtin_prefetch(row + i);
}
constexpr int kRowsAhead = 8;

// Inlined, because calling memcpy for a row far away in memory made stage 1 take 1.4 times as long.
inline void copy_row(const float* from, int32_t head_dim, float* to) {
#pragma GCC unroll 2
  for (int d = 0; d < head_dim; d += kVector) {
    __builtin_memcpy(to + d, from + d, sizeof(Vector));
  }
}

// Loads D elements of a tensor as floats, starting at `first`. `out` must be aligned; the tensor
// need not be.
inline void load_row(const void* base, int64_t first, int32_t head_dim, int32_t dtype, float* out) {
  if (dtype == PARO_FLOAT32) {
    copy_row(static_cast<const float*>(base) + first, head_dim, out);
  } else if (dtype == PARO_FLOAT16) {
    for (int d = 0; d < head_dim; ++d) out[d] = load_element(base, first + d, PARO_FLOAT16);
  } else {
    for (int d = 0; d < head_dim; ++d) out[d] = load_element(base, first + d, PARO_BFLOAT16);
  }
}

inline void store_row(void* base, int64_t first, int32_t head_dim, int32_t dtype, const float* x) {
  if (dtype == PARO_FLOAT32) {
    copy_row(x, head_dim, static_cast<float*>(base) + first);
  } else if (dtype == PARO_FLOAT16) {
    for (int d = 0; d < head_dim; ++d) store_element(base, first + d, PARO_FLOAT16, x[d]);
  } else {
    for (int d = 0; d < head_dim; ++d) store_element(base, first + d, PARO_BFLOAT16, x[d]);
  }
}

// The values of levels / maximum and maximum / levels for a group with this largest magnitude.
struct Scale {
  float inverse;
  float scale;
};

constexpr uint32_t kInfinityBits = 0x7F800000u;

// `magnitude_bits` is the largest |x| of the group, read as an integer. Magnitudes have the same
// order as these integers, and infinity and NaN lie above all others, so that one maximum finds
// both.
inline Scale scale_of(int32_t magnitude_bits, int bits) {
  if (static_cast<uint32_t>(magnitude_bits) >= kInfinityBits) return {0.0f, __builtin_nanf("")};
  const float maximum = __builtin_bit_cast(float, magnitude_bits);
  if (!(maximum > kSmallestMaximum)) return {0.0f, 0.0f};
  const float levels = levels_of(bits);
  return {levels / maximum, maximum / levels};
}

// Largest magnitudes: of one group per lane, or of a single group after `over_lanes`.
struct Magnitude {
  VectorInt largest{};

  void add(Vector x) {
    const VectorInt bits = float_to_bits(x) & 0x7FFFFFFF;
    largest = bits > largest ? bits : largest;
  }

  int32_t over_lanes() const {
    VectorInt result = largest;
#pragma GCC unroll 4
    for (int step = kVector / 2; step > 0; step /= 2) {
      VectorInt partner;
      for (int i = 0; i < kVector; ++i) partner[i] = i ^ step;
      const VectorInt other = __builtin_shuffle(result, partner);
      result = other > result ? other : result;
    }
    return result[0];
  }
};

inline int32_t magnitude_of(const float* x, int count) {
  Magnitude magnitude;
  for (int i = 0; i < count; i += kVector) magnitude.add(load(x + i));
  return magnitude.over_lanes();
}

// x -> codes as floats. This uses rint instead of the rounding bias: the compiler would contract
// the product and the bias into one operation, whose single rounding differs from the
// specification.
inline Vector code_of(Vector x, Vector inverse) {
  const Vector product = x * inverse;
  Vector code{};
  for (int i = 0; i < kVector; ++i) code[i] = __builtin_rintf(product[i]);
  return inverse == 0.0f ? Vector{} : code;  // as in store_codes
}

// Turns one row of a group into codes, and adds `offset` to each. Returns the sum of the codes
// without the offset.
inline int32_t store_codes(const float* x, int count, Scale s, int offset, Codes::Element* codes) {
  constexpr int kPiece = 64;  // divides D; a constant length removes the loop's remainder
  int32_t sum = 0;
  for (int first = 0; first < count; first += kPiece) {
    for (int i = first; i < first + kPiece; ++i) {
      // In a group with NaN or infinity, all codes are 0 and the scale is NaN. NaN * 0 would not
      // give 0.
      const float product = s.inverse == 0.0f ? 0.0f : x[i] * s.inverse;
      const int32_t code = static_cast<int32_t>(__builtin_rintf(product));
      codes[i] = static_cast<Codes::Element>(code + offset);
      sum += code;
    }
  }
  return sum;
}

// Stores values at 16 bits, as words of one float or of two bfloat16.
inline void store_unquantized(const float* x, int count, Operand operand, Word* words) {
  if (operand == Operand::kFloat32) {
    __builtin_memcpy(words, x, sizeof(float) * static_cast<unsigned>(count));
  } else {
    for (int i = 0; i < count; ++i) store_element(words, i, PARO_BFLOAT16, x[i]);
  }
}

}  // namespace paro::cpu::PARO_ISA
