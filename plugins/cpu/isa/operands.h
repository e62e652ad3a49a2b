// Operands of both products as words of four bytes: how an instruction set multiplies a vector of
// words by one word and adds, and how floats become words. Each way of storing is one struct:
//
//   kPerWord     the number of neighbours along the summed axis in one word
//   Line, Sum    a vector of words; the accumulators of their products
//   pack         kPerWord vectors of neighbours -> one vector of words
//
// Codes are multiplied as integers, which is exact. Some instructions take one operand as unsigned.
// Its codes are then stored plus 128, and the sum starts at minus what this adds.
#pragma once

#include "../head_job.h"
#include "vector.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace paro::cpu::PARO_ISA {

struct Float32 {
  static constexpr Operand kOperand = Operand::kFloat32;
  static constexpr int kPerWord = 1;
  static constexpr bool kCodes = false;
  using Line = Vector;
  using Sum = Vector;
  static Vector broadcast(Word word) { return splat(__builtin_bit_cast(float, word)); }
  static Vector multiply_add(Vector sum, Vector line, Vector word) { return line * word + sum; }
  static Vector pack(const Vector x[1]) { return x[0]; }
};

#if defined(__AVX512BF16__)
constexpr bool kMultipliesBfloat16 = true;
#else
constexpr bool kMultipliesBfloat16 = false;
#endif

struct Bfloat16 {
  static constexpr Operand kOperand = Operand::kBfloat16;
  static constexpr int kPerWord = 2;
  static constexpr bool kCodes = false;
  using Line = VectorInt;
  using Sum = Vector;
  static VectorInt broadcast(Word word) { return splat(static_cast<int32_t>(word)); }
  static Vector multiply_add(Vector sum, VectorInt line, VectorInt word)
#if defined(__AVX512BF16__)
  {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(line),
                            reinterpret_cast<__m512bh>(word));
  }
#else
      = delete;
#endif
  static VectorInt pack(const Vector x[2]) {
    return (rounded(x[0]) >> 16 & 0xFFFF) | (rounded(x[1]) & static_cast<int32_t>(0xFFFF0000));
  }

 private:
  // Rounds to nearest, halves to even, into the upper 16 bits. Only a NaN with a payload above
  // 0x7FFF7FFF would overflow, and no operation produces one.
  static VectorInt rounded(Vector x) {
    const VectorInt bits = float_to_bits(x);
    return bits + 0x7FFF + (bits >> 16 & 1);
  }
};

// Rounds vectors of codes >= 0, given as floats, and packs them into words of 32 / kPerWord bits
// each. Rounding leaves a bias above each code; the biases are shifted and summed together with the
// codes, and subtracted at the end.
template <int kPerWord>
inline VectorInt pack_codes(const Vector x[kPerWord]) {
  constexpr int kBits = 32 / kPerWord;
  VectorUnsigned words{};
  uint32_t biases = 0;
#pragma GCC unroll 4
  for (int i = 0; i < kPerWord; ++i) {
    words += reinterpret_cast<VectorUnsigned>(x[i] + kRoundingBias) << i * kBits;
    biases += static_cast<uint32_t>(kRoundingBiasBits) << i * kBits;
  }
  return reinterpret_cast<VectorInt>(words - biases);
}

// score: multiplies a vector of query words by a key word. weigh: multiplies P, whose codes are
// unsigned, by V. add_up: sums the codes in a word. kQueryOffset is added to the codes of Q, and
// kValueOffset to those of V.
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)

struct Codes {
  static constexpr Operand kOperand = Operand::kInt8;
  static constexpr int kPerWord = 4;
  static constexpr int kQueryOffset = 128, kValueOffset = 0;
  using Element = int8_t;
  static VectorInt score(VectorInt sum, VectorInt query, VectorInt key) {
#if defined(__AVX512VNNI__)
    return reinterpret_cast<VectorInt>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum),
                                                           reinterpret_cast<__m512i>(query),
                                                           reinterpret_cast<__m512i>(key)));
#else
    return reinterpret_cast<VectorInt>(_mm256_dpbusd_avx_epi32(reinterpret_cast<__m256i>(sum),
                                                               reinterpret_cast<__m256i>(query),
                                                               reinterpret_cast<__m256i>(key)));
#endif
  }
  static VectorInt weigh(VectorInt sum, VectorInt weights, VectorInt value) {
    return score(sum, weights, value);
  }
  static VectorInt add_up(VectorInt sum, VectorInt weights) {
    return score(sum, weights, splat(0x01010101));
  }
};

#elif defined(__ARM_FEATURE_DOTPROD)

struct Codes {
  static constexpr Operand kOperand = Operand::kInt8;
  static constexpr int kPerWord = 4;
  static constexpr int kQueryOffset = 0, kValueOffset = 128;
  using Element = int8_t;
  static VectorInt score(VectorInt sum, VectorInt query, VectorInt key) {
    return vdotq_s32(sum, reinterpret_cast<int8x16_t>(query), reinterpret_cast<int8x16_t>(key));
  }
  static VectorInt weigh(VectorInt sum, VectorInt weights, VectorInt value) {
    return reinterpret_cast<VectorInt>(vdotq_u32(reinterpret_cast<uint32x4_t>(sum),
                                                 reinterpret_cast<uint8x16_t>(weights),
                                                 reinterpret_cast<uint8x16_t>(value)));
  }
  static VectorInt add_up(VectorInt sum, VectorInt weights) {
    return weigh(sum, weights, splat(0x01010101));
  }
};

#else

// Without a dot product of bytes, or with one that saturates (AVX2), codes are pairs of 16 bits.
struct Codes {
  static constexpr Operand kOperand = Operand::kInt16;
  static constexpr int kPerWord = 2;
  static constexpr int kQueryOffset = 0, kValueOffset = 0;
  using Element = int16_t;
  static VectorInt score(VectorInt sum, VectorInt query, VectorInt key) {
#if defined(__AVX512BW__)
    return sum + reinterpret_cast<VectorInt>(_mm512_madd_epi16(reinterpret_cast<__m512i>(query),
                                                               reinterpret_cast<__m512i>(key)));
#elif defined(__AVX2__)
    return sum + reinterpret_cast<VectorInt>(_mm256_madd_epi16(reinterpret_cast<__m256i>(query),
                                                               reinterpret_cast<__m256i>(key)));
#elif defined(__SSE2__)
    return sum + reinterpret_cast<VectorInt>(_mm_madd_epi16(reinterpret_cast<__m128i>(query),
                                                            reinterpret_cast<__m128i>(key)));
#else
    return sum + (query << 16 >> 16) * (key << 16 >> 16) + (query >> 16) * (key >> 16);
#endif
  }
  static VectorInt weigh(VectorInt sum, VectorInt weights, VectorInt value) {
    return score(sum, weights, value);
  }
  static VectorInt add_up(VectorInt sum, VectorInt weights) {
    return sum + (weights & 0xFFFF) + (weights >> 16);
  }
};

#endif

template <VectorInt (*kMultiplyAdd)(VectorInt sum, VectorInt line, VectorInt word)>
struct CodeProduct : Codes {
  static constexpr bool kCodes = true;
  using Line = VectorInt;
  using Sum = VectorInt;
  static VectorInt broadcast(Word word) { return splat(static_cast<int32_t>(word)); }
  static VectorInt multiply_add(VectorInt sum, VectorInt line, VectorInt word) {
    return kMultiplyAdd(sum, line, word);
  }
  static VectorInt pack(const Vector x[kPerWord]) { return pack_codes<kPerWord>(x); }
};

using ScoreCodes = CodeProduct<Codes::score>;   // Q and K
using WeightCodes = CodeProduct<Codes::weigh>;  // P and V

// V as stage 1 stores it: signed, unless the instruction takes it as unsigned.
struct ValueCodes {
  static constexpr int kPerWord = Codes::kPerWord;
  static VectorInt pack(const Vector x[kPerWord]) {
    constexpr int32_t kHalf = 1 << (32 / kPerWord - 1);
    static_assert(Codes::kValueOffset == 0 || Codes::kValueOffset == kHalf);
    constexpr uint32_t kSigns = kPerWord == 4 ? 0x80808080u : 0x80008000u;
    Vector shifted[kPerWord];
    for (int i = 0; i < kPerWord; ++i) shifted[i] = x[i] + static_cast<float>(kHalf);
    const VectorInt words = pack_codes<kPerWord>(shifted);
    return Codes::kValueOffset != 0 ? words : words ^ static_cast<int32_t>(kSigns);
  }
};

}  // namespace paro::cpu::PARO_ISA
