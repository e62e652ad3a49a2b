// Conversions and packing. PTX ISA, "cvt", "cvt.pack", "ex2", "prmt".
#pragma once

#include "ptx/platform.cuh"

namespace paro::ptx {

// ex2.approx.ftz: 2^x, relative error below 2^-22; subnormal results are 0.
PTX_FN float exp2_approx(float x) {
#if PARO_EMULATED
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

#if PARO_EMULATED
namespace detail {
template <class Byte>
uint32_t saturated_bytes(float x0, float x1, float x2, float x3) {
  uint32_t packed = 0;
  int shift = 0;
  for (const float x : {x0, x1, x2, x3}) {
    const int low = std::numeric_limits<Byte>::min(), high = std::numeric_limits<Byte>::max();
    const int code = std::clamp(__float2int_rn(x), low, high);
    packed |= (static_cast<uint32_t>(code) & 255u) << shift;
    shift += 8;
  }
  return packed;
}
}  // namespace detail
#endif

// Four floats to bytes, x0 lowest: round half to even, saturate, NaN gives 0.
// cvt.rni.s32.f32 and cvt.pack.sat, which nvcc fuses to F2IP from sm_89 on.
PTX_FN uint32_t pack_u8x4(float x0, float x1, float x2, float x3) {
#if PARO_EMULATED
  return detail::saturated_bytes<uint8_t>(x0, x1, x2, x3);
#else
  uint32_t high, all;
  asm("cvt.pack.sat.u8.s32.b32 %0, %1, %2, %3;"
      : "=r"(high)
      : "r"(__float2int_rn(x3)), "r"(__float2int_rn(x2)), "r"(0));
  asm("cvt.pack.sat.u8.s32.b32 %0, %1, %2, %3;"
      : "=r"(all)
      : "r"(__float2int_rn(x1)), "r"(__float2int_rn(x0)), "r"(high));
  return all;
#endif
}

PTX_FN uint32_t pack_s8x4(float x0, float x1, float x2, float x3) {
#if PARO_EMULATED
  return detail::saturated_bytes<int8_t>(x0, x1, x2, x3);
#else
  uint32_t high, all;
  asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;"
      : "=r"(high)
      : "r"(__float2int_rn(x3)), "r"(__float2int_rn(x2)), "r"(0));
  asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;"
      : "=r"(all)
      : "r"(__float2int_rn(x1)), "r"(__float2int_rn(x0)), "r"(high));
  return all;
#endif
}

// cvt.rn.f16x2.f32: two floats to halves, x0 in the low bits.
PTX_FN uint32_t pack_f16x2(float x0, float x1) {
#if PARO_EMULATED
  return emulator::half_bits_from_float(x0) |
         static_cast<uint32_t>(emulator::half_bits_from_float(x1)) << 16;
#else
  uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(x1), "f"(x0));
  return packed;
#endif
}

// cvt.rn.bf16x2.f32: the same for bfloat16.
PTX_FN uint32_t pack_bf16x2(float x0, float x1) {
#if PARO_EMULATED
  return emulator::bfloat16_bits_from_float(x0) |
         static_cast<uint32_t>(emulator::bfloat16_bits_from_float(x1)) << 16;
#else
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(x1), "f"(x0));
  return packed;
#endif
}

// An int32 accumulator that starts here holds, as float bits, 1.5 * 2^23 plus its sum: no
// conversion instruction. Exact for sums within +-2^22.
constexpr int32_t biased_zero = 0x4B400000;
constexpr float bias_value = 12582912.0f;

PTX_FN float float_from_biased(int32_t accumulator) {
  return __int_as_float(accumulator) - bias_value;
}

// Two registers of four signed bytes each.
struct BytePair {
  uint32_t low, high;
};

// Eight signed 4-bit values to bytes: even nibbles to `low`, odd ones to `high`. Five logic
// operations; the order suits data stored so that both operands interleave alike.
PTX_FN BytePair unpack_s4_interleaved(uint32_t nibbles) {
  // (v ^ 8) - 8 in every byte; bit 7 is set meanwhile so that no byte borrows from the next.
  const auto extend = [](uint32_t v) { return ((v ^ 0x88888888u) - 0x08080808u) ^ 0x80808080u; };
  return {extend(nibbles & 0x0F0F0F0Fu), extend(nibbles >> 4 & 0x0F0F0F0Fu)};
}

// The same in the nibbles' order: values 0..3 to `low`, 4..7 to `high` (two prmt more).
PTX_FN BytePair unpack_s4_sequential(uint32_t nibbles) {
  const BytePair parts = unpack_s4_interleaved(nibbles);
  return {__byte_perm(parts.low, parts.high, 0x5140), __byte_perm(parts.low, parts.high, 0x7362)};
}

}  // namespace paro::ptx
