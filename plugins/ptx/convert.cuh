// Conversions, packing and maxima. PTX ISA, "cvt", "cvt.pack", "ex2", "max", "prmt".
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

// lg2.approx: for normal x an absolute error up to 2^-22 in (0.5, 2), a relative one elsewhere (PTX
// ISA). Powers of two may not be exact.
PTX_FN float log2_approx(float x) {
#if PARO_EMULATED
  return std::log2(x);
#else
  float y;
  asm("lg2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// max.NaN.f32: NaN where either is.
PTX_FN float maximum_or_nan(float x, float y) {
#if PARO_EMULATED
  return x != x ? x : y != y ? y : std::max(x, y);
#else
  float z;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
  return z;
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

// An int32 accumulator that starts here holds, as float bits, 1.5 * 2^23 plus its sum: no
// conversion instruction. Exact for sums within +-2^22.
constexpr int32_t biased_zero = 0x4B400000;
constexpr float bias_value = 12582912.0f;

// Four floats to bytes, x0 lowest: round half to even, saturate, NaN gives 0.
// cvt.rni.s32.f32 and cvt.pack.sat, which nvcc fuses to F2IP from sm_86 on.
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

// The same for floats already in [0, 255.5): on sm_80, where a conversion takes the unit of ex2 as
// long as an ex2 does, additions and permutes do it instead. Adding 1.5 * 2^23 rounds half to even and leaves the
// code in the lowest byte.
#if PARO_EMULATED || __CUDA_ARCH__ < 860
constexpr bool packs_by_addition = true;
#else
constexpr bool packs_by_addition = false;
#endif

// The lowest bytes of the floats' own words.
PTX_FN uint32_t pack_lowest_bytes(float x0, float x1, float x2, float x3) {
  return __byte_perm(__byte_perm(__float_as_uint(x0), __float_as_uint(x1), 0x0040),
                     __byte_perm(__float_as_uint(x2), __float_as_uint(x3), 0x0040), 0x5410);
}

PTX_FN uint32_t pack_u8x4_in_range(float x0, float x1, float x2, float x3) {
  if constexpr (!packs_by_addition) return pack_u8x4(x0, x1, x2, x3);
  const auto code = [](float x) { return __fadd_rn(x, bias_value); };
  return pack_lowest_bytes(code(x0), code(x1), code(x2), code(x3));
}

// The same of products with a factor, which the addition takes with it.
PTX_FN uint32_t pack_u8x4_in_range(float x0, float x1, float x2, float x3, float factor) {
  const auto code = [factor](float x) { return __fmaf_rn(x, factor, bias_value); };
  return pack_lowest_bytes(code(x0), code(x1), code(x2), code(x3));
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

// prmt.b32: four bytes of the eight of (high, low), by the nibbles of the selector. A nibble above 7
// gives the sign of byte nibble - 8, eight times.
PTX_FN uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
#if PARO_EMULATED
  const uint64_t bytes = uint64_t{high} << 32 | low;
  uint32_t chosen = 0;
  for (int i = 0; i < 4; i++) {
    const uint32_t nibble = selector >> (4 * i) & 15u;
    const auto byte = static_cast<uint32_t>(bytes >> (nibble % 8 * 8) & 255u);
    chosen |= (nibble < 8 ? byte : byte >> 7 != 0 ? 255u : 0u) << (8 * i);
  }
  return chosen;
#else
  uint32_t chosen;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(chosen) : "r"(low), "r"(high), "r"(selector));
  return chosen;
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

// Four registers that hold `value`, opaque to the compiler: an mma reads its start from four
// consecutive ones, and would have them written anew each time if their content were known.
PTX_FN void hold(int32_t (&registers)[4], int32_t value, Place place = Place::current()) {
#if PARO_EMULATED
  (void)place;
  for (int32_t& x : registers) x = value;
#else
  (void)place;
  // A shuffle that changes nothing is what no compiler pass looks into.
#pragma unroll
  for (int i = 0; i < 4; i++) {
    asm volatile("shfl.sync.idx.b32 %0, %1, 0, 0x1f, 0xffffffff;"
                 : "=r"(registers[i])
                 : "r"(value));
  }
#endif
}

// A word or an address that the compiler computes where it is asked for. It keeps no register for it
// before, and does not compute it again.
template <class T>
PTX_FN T computed_here(T x) {
#if !PARO_EMULATED
  if constexpr (sizeof(T) == 8) {
    asm volatile("" : "+l"(x));
  } else {
    asm volatile("" : "+r"(x));
  }
#endif
  return x;
}

PTX_FN float float_from_biased(int32_t accumulator) {
  return __int_as_float(accumulator) - bias_value;
}

// Two registers of four signed bytes each.
struct BytePair {
  uint32_t low, high;
};

// Eight signed 4-bit values to bytes of 16 times their value: even nibbles to `low`, odd ones to
// `high`. A nibble at the top of a byte has its sign there, so that nothing needs to be extended:
// three operations, where the values themselves take seven. Who multiplies the bytes divides the
// sum by 16; the order suits data stored so that both operands unpack alike.
PTX_FN BytePair unpack_s4_times_16(uint32_t nibbles) {
  return {nibbles << 4 & 0xF0F0F0F0u, nibbles & 0xF0F0F0F0u};
}

}  // namespace paro::ptx
