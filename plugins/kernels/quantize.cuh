// Quantization as the op specifies it (paro_trt/op/quantization.py): FP32 in one order of
// operations, so that the codes equal those of the reference bit for bit.
#pragma once

#include "kernels/device_plan.cuh"
#include "ptx/convert.cuh"

namespace paro::kernels {

// Eight channels of one token, what a thread holds of a row.
struct Channels8 {
  float x[8];
};

DEVICE_FN float2 floats_from_pair(uint32_t pair, bool is_bfloat16) {
  if (is_bfloat16) return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000u)};
  return {__half2float(__ushort_as_half(static_cast<unsigned short>(pair & 0xFFFFu))),
          __half2float(__ushort_as_half(static_cast<unsigned short>(pair >> 16)))};
}

DEVICE_FN uint32_t pair_from_floats(float low, float high, bool is_bfloat16) {
  return is_bfloat16 ? ptx::pack_bf16x2(low, high) : ptx::pack_f16x2(low, high);
}

DEVICE_FN Channels8 channels_from_16bit(const uint4& raw, bool is_bfloat16) {
  Channels8 result;
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 pair = floats_from_pair(words[i], is_bfloat16);
    result.x[2 * i] = pair.x;
    result.x[2 * i + 1] = pair.y;
  }
  return result;
}

DEVICE_FN uint4 channels_to_16bit(const Channels8& c, bool is_bfloat16) {
  return {pair_from_floats(c.x[0], c.x[1], is_bfloat16),
          pair_from_floats(c.x[2], c.x[3], is_bfloat16),
          pair_from_floats(c.x[4], c.x[5], is_bfloat16),
          pair_from_floats(c.x[6], c.x[7], is_bfloat16)};
}

// |x| as an integer. Magnitudes have the order of these integers, with infinity and NaN above all
// others, so one maximum finds both.
DEVICE_FN uint32_t magnitude_bits(float x) { return __float_as_uint(x) & 0x7FFFFFFFu; }

DEVICE_FN uint32_t largest_magnitude(const Channels8& c) {
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) largest = max(largest, magnitude_bits(c.x[i]));
  return largest;
}

// codes = round_half_even(x * inverse); codes * scale stands for x.
struct Scale {
  float inverse;
  float scale;
};

constexpr float levels_of(Number number) { return number == Number::s8 ? 127.0f : 7.0f; }

// Scale of a group from its largest magnitude. A group with infinity or NaN has codes 0 and scale
// NaN; one below 2^-100 has codes and scale 0.
DEVICE_FN Scale scale_of(uint32_t magnitude, float levels) {
  if (magnitude >= 0x7F800000u) return {0.0f, __uint_as_float(0x7FC00000u)};
  const float maximum = __uint_as_float(magnitude);
  if (!(maximum > 0x1p-100f)) return {0.0f, 0.0f};
  return {__fdiv_rn(levels, maximum), __fdiv_rn(maximum, levels)};
}

DEVICE_FN Channels8 scaled(const Channels8& c, const float (&factor)[8]) {
  Channels8 result;
#pragma unroll
  for (int i = 0; i < 8; i++) result.x[i] = c.x[i] * factor[i];
  return result;
}

DEVICE_FN Channels8 scaled(const Channels8& c, float factor) {
  Channels8 result;
#pragma unroll
  for (int i = 0; i < 8; i++) result.x[i] = c.x[i] * factor;
  return result;
}

// Codes of scaled channels 0 to 3 and 4 to 7, a byte each. In a group with infinity or NaN the
// scaled channels are NaN or 0, and both become code 0.
DEVICE_FN uint2 codes_s8(const Channels8& c) {
  return {ptx::pack_s8x4(c.x[0], c.x[1], c.x[2], c.x[3]),
          ptx::pack_s8x4(c.x[4], c.x[5], c.x[6], c.x[7])};
}

// Two words of byte codes to one word of nibbles: byte b of `even` becomes nibble 2 b, of `odd`
// nibble 2 b + 1.
DEVICE_FN uint32_t interleave_nibbles(uint32_t even, uint32_t odd) {
  return (even & 0x0F0F0F0Fu) | (odd & 0x0F0F0F0Fu) << 4;
}

// Bytes of the even and of the odd channels.
DEVICE_FN uint2 codes_even_odd(const Channels8& c) {
  return {ptx::pack_s8x4(c.x[0], c.x[2], c.x[4], c.x[6]),
          ptx::pack_s8x4(c.x[1], c.x[3], c.x[5], c.x[7])};
}

// Eight 4-bit codes in channel order.
DEVICE_FN uint32_t codes_s4(const Channels8& c) {
  const uint2 codes = codes_even_odd(c);
  return interleave_nibbles(codes.x, codes.y);
}

}  // namespace paro::kernels
