// Quantization as the op specifies it (paro_trt/op/quantization.py): FP32, one order of operations.
#pragma once

#include "vector.h"

namespace paro::cpu::PARO_ISA {

constexpr float kSmallestMaximum = 0x1p-100f;

inline float levels_of(int bits) { return bits == 8 ? 127.0f : 7.0f; }

inline float load_element(const void* base, int64_t index, int32_t dtype) {
  if (dtype == PARO_FLOAT32) return static_cast<const float*>(base)[index];
  if (dtype == PARO_FLOAT16) return static_cast<float>(static_cast<const _Float16*>(base)[index]);
  const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(base)[index]) << 16;
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

inline void store_element(void* base, int64_t index, int32_t dtype, float x) {
  if (dtype == PARO_FLOAT32) {
    static_cast<float*>(base)[index] = x;
  } else if (dtype == PARO_FLOAT16) {
    static_cast<_Float16*>(base)[index] = static_cast<_Float16>(x);
  } else {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    const bool nan = x != x;
    const uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    static_cast<uint16_t*>(base)[index] = static_cast<uint16_t>(nan ? 0x7FC0 : rounded);
  }
}

// One row of [rows, heads, D] tensors as floats.
inline void load_row(const void* base, int64_t row, int32_t head_dim, int32_t dtype, float* out) {
  for (int d = 0; d < head_dim; ++d) out[d] = load_element(base, row * head_dim + d, dtype);
}

// What values * (levels / maximum) and maximum / levels become for a group's largest magnitude.
struct Scale {
  float inverse;
  float scale;
};

inline Scale scale_of(float maximum, bool finite, int bits) {
  if (!finite) return {0.0f, __builtin_nanf("")};
  if (!(maximum > kSmallestMaximum)) return {0.0f, 0.0f};
  const float levels = levels_of(bits);
  return {levels / maximum, maximum / levels};
}

// Largest magnitude of a group and whether all of it is finite.
struct Magnitude {
  float maximum = 0.0f;
  bool finite = true;

  void add(float x) {
    const float magnitude = __builtin_fabsf(x);
    maximum = magnitude > maximum ? magnitude : maximum;
    finite &= magnitude <= __FLT_MAX__;
  }
};

inline float code_of(float x, Scale s) {
  // A poisoned group has codes 0 and all of its NaN in the scale; NaN * 0 would not be 0.
  return s.inverse == 0.0f ? 0.0f : __builtin_rintf(x * s.inverse);
}

}  // namespace paro::cpu::PARO_ISA
