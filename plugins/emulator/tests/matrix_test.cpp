// Compares mma.sync and conversions with plain computations.
#include "emulator/tests/check.h"
#include "ptx/convert.cuh"
#include "ptx/mma.cuh"

using namespace paro;

namespace {

using IntegerMma = void (*)(int32_t (&)[4], const uint32_t (&)[4], const uint32_t (&)[2], Place);
using FloatMma = void (*)(float (&)[4], const uint32_t (&)[4], const uint32_t (&)[2], Place);

template <class Accumulator, auto Mma>
__global__ void one_mma(const uint32_t* words, const Accumulator* start, Accumulator* result) {
  const uint32_t* mine = words + threadIdx.x * 6;
  const uint32_t a[4] = {mine[0], mine[1], mine[2], mine[3]}, b[2] = {mine[4], mine[5]};
  Accumulator c[4];
  for (unsigned i = 0; i < 4; i++) c[i] = start[threadIdx.x * 4 + i];
  Mma(c, a, b, Place::current());
  for (unsigned i = 0; i < 4; i++) result[threadIdx.x * 4 + i] = c[i];
}

// Element (row, k) of A and (k, column) of B, directly from the PTX ISA's index formulas.
struct Fragments {
  const std::vector<uint32_t>& words;
  int bits;

  uint32_t element(int lane, int reg, int index) const {
    return words[static_cast<size_t>(lane * 6 + reg)] >> (bits * index) & ((1u << bits) - 1u);
  }
  int per_register() const { return 32 / bits; }
  int k_size() const { return 8 * per_register(); }
  uint32_t a(int row, int k) const {
    const int e = per_register(), half = k / (4 * e), in_half = k % (4 * e);
    return element(row % 8 * 4 + in_half / e, 2 * half + row / 8, in_half % e);
  }
  uint32_t b(int k, int column) const {
    const int e = per_register(), half = k / (4 * e), in_half = k % (4 * e);
    return element(column * 4 + in_half / e, 4 + half, in_half % e);
  }
};

int64_t as_integer(uint32_t code, int bits, bool is_signed) {
  const int64_t value = code;
  return is_signed && value >> (bits - 1) ? value - (int64_t{1} << bits) : value;
}

template <auto Mma>
void check_integer(int bits, bool a_signed) {
  check::in_every_mode([&](const std::string& mode) {
    const auto words = check::random_words(32 * 6);
    const auto start = check::random_integers<int32_t>(128, -100000, 100000);
    std::vector<int32_t> result(128);
    CHECK_RUNS((one_mma<int32_t, Mma>), {1, 32}, words.data(), start.data(), result.data());
    const Fragments fragments{words, bits};
    for (int row = 0; row < 16; row++) {
      for (int column = 0; column < 8; column++) {
        const auto at =
            static_cast<size_t>((row % 8 * 4 + column / 2) * 4 + row / 8 * 2 + column % 2);
        int64_t sum = start[at];
        for (int k = 0; k < fragments.k_size(); k++) {
          sum += as_integer(fragments.a(row, k), bits, a_signed) *
                 as_integer(fragments.b(k, column), bits, true);
        }
        CHECK_MESSAGE(result[at] == sum, mode);
      }
    }
  });
}

template <auto Mma>
void check_float(float (*decode)(uint32_t), uint32_t keep_bits, uint32_t set_bits) {
  auto words = check::random_words(32 * 6);
  for (uint32_t& word : words) word = (word & keep_bits) | set_bits;  // finite, near 1
  std::vector<float> start(128, 0.25f), result(128);
  CHECK_RUNS((one_mma<float, Mma>), {1, 32}, words.data(), start.data(), result.data());
  const Fragments fragments{words, 16};
  for (int row = 0; row < 16; row++) {
    for (int column = 0; column < 8; column++) {
      const auto at =
          static_cast<size_t>((row % 8 * 4 + column / 2) * 4 + row / 8 * 2 + column % 2);
      double sum = start[at];
      for (int k = 0; k < 16; k++) {
        sum += static_cast<double>(decode(fragments.a(row, k))) *
               static_cast<double>(decode(fragments.b(k, column)));
      }
      CHECK(std::fabs(result[at] - sum) < 1e-4);
    }
  }
}

TEST(integer_mma_matches_plain_products) {
  check_integer<IntegerMma(ptx::mma_s8_s8)>(8, true);
  check_integer<IntegerMma(ptx::mma_u8_s8)>(8, false);
  check_integer<IntegerMma(ptx::mma_s4_s4)>(4, true);
  check_integer<IntegerMma(ptx::mma_u4_s4)>(4, false);
}

TEST(float_mma_matches_plain_products) {
  check_float<FloatMma(ptx::mma_f16)>(
      [](uint32_t bits) { return __half2float(__ushort_as_half(static_cast<uint16_t>(bits))); },
      0x83FF83FFu, 0x3C003C00u);
  check_float<FloatMma(ptx::mma_bf16)>([](uint32_t bits) { return __uint_as_float(bits << 16); },
                                       0x807F807Fu, 0x3F803F80u);
}

__global__ void mma_in_two_branches(const uint32_t* words, int32_t* out) {
  const uint32_t a[4] = {words[0], words[1], words[2], words[3]}, b[2] = {words[4], words[5]};
  int32_t c[4] = {};
  if (threadIdx.x < 16) {
    ptx::mma_s8_s8(c, a, b);
  } else {
    ptx::mma_s8_s8(c, a, b);
  }
  out[threadIdx.x] = c[0];
}

TEST(mma_in_divergent_code_is_diagnosed) {
  const auto words = check::random_words(6);
  std::vector<int32_t> out(32);
  CHECK_FAULT(divergence, "mma.sync", mma_in_two_branches, {1, 32}, words.data(), out.data());
}

// ---- conversions ----

TEST(every_half_survives_float) {
  for (uint32_t bits = 0; bits < 65536; bits++) {
    const auto code = static_cast<uint16_t>(bits);
    const float value = __half2float(__ushort_as_half(code));
    const uint16_t back = __half_as_ushort(__float2half_rn(value));
    CHECK(std::isnan(value) ? (bits & 0x7C00u) == 0x7C00u && back == 0x7FFF : back == code);
  }
}

// The nearer of two neighbouring codes; a tie goes to the even one.
template <class Decode>
uint32_t nearest(double value, uint32_t below, Decode decode) {
  const double low = decode(below), high = decode(below + 1), middle = (low + high) / 2;
  if (value != middle) return value < middle ? below : below + 1;
  return below % 2 == 0 ? below : below + 1;
}

TEST(float_to_16_bits_rounds_half_to_even) {
  const auto half = [](uint32_t code) {
    return static_cast<double>(__half2float(__ushort_as_half(static_cast<uint16_t>(code))));
  };
  const auto bfloat = [](uint32_t code) {
    return static_cast<double>(__uint_as_float(code << 16));
  };
  for (int i = 0; i < 20000; i++) {
    const uint32_t code = check::random_word() % 0x7BFFu;
    const double low = half(code), high = half(code + 1);
    const double part = i % 3 == 0 ? 0.5 : (check::random_word() % 1024) / 1024.0;
    const auto value = static_cast<float>(low + (high - low) * part);
    CHECK(__half_as_ushort(__float2half_rn(value)) == nearest(value, code, half));
    const uint32_t wide = 0x3000u + check::random_word() % 0x2000u;
    const auto other = static_cast<float>(bfloat(wide) + (bfloat(wide + 1) - bfloat(wide)) * part);
    CHECK(__bfloat16_as_ushort(__float2bfloat16_rn(other)) == nearest(other, wide, bfloat));
  }
  CHECK(__half_as_ushort(__float2half_rn(65519.9f)) == 0x7BFF);
  CHECK(__half_as_ushort(__float2half_rn(65520.0f)) == 0x7C00);
  CHECK(__half_as_ushort(__float2half_rn(-1e30f)) == 0xFC00);
}

TEST(packing) {
  CHECK(ptx::pack_u8x4(0.5f, 1.5f, 2.5f, 254.5f) == 0xFE020200u);
  CHECK(ptx::pack_u8x4(-3.0f, 300.0f, NAN, 1e20f) == 0xFF00FF00u);
  CHECK(ptx::pack_s8x4(-0.5f, -1.5f, 127.6f, -1e20f) == 0x807FFE00u);
  CHECK(ptx::pack_f16x2(1.0f, -2.0f) == 0xC0003C00u);
  CHECK(ptx::pack_bf16x2(1.0f, -2.0f) == 0xC0003F80u);
  CHECK(ptx::exp2_approx(3.0f) == 8.0f && ptx::exp2_approx(-200.0f) == 0.0f);
  CHECK(ptx::float_from_biased(ptx::biased_zero - 4194304) == -4194304.0f);
  CHECK(ptx::float_from_biased(ptx::biased_zero + 4194303) == 4194303.0f);
}

TEST(four_bit_values_unpack) {
  for (const uint32_t word : check::random_words(200)) {
    const ptx::BytePair bytes = ptx::unpack_s4_times_16(word);
    for (int i = 0; i < 8; i++) {
      const auto value = as_integer(word >> 4 * i & 15u, 4, true);
      const uint32_t part = i % 2 == 0 ? bytes.low : bytes.high;
      CHECK(static_cast<int8_t>(part >> 8 * (i / 2)) == 16 * value);
    }
  }
}

TEST(bit_intrinsics) {
  CHECK(__byte_perm(0x33221100u, 0x77665544u, 0x7531u) == 0x77553311u);
  CHECK(__byte_perm(0x80000000u, 0u, 0xBBB3u) == 0xFFFFFF80u);
  CHECK(__dp4a(0x01020304u, 0x01010101u, 5u) == 15u);
  CHECK(__dp4a(static_cast<int>(0xFF02FE04u), 0x01010101, 0) == 3);
  CHECK(__float2int_rn(2.5f) == 2 && __float2int_rn(NAN) == 0 &&
        __float2int_rn(1e20f) == INT32_MAX);
  CHECK(__ffs(0) == 0 && __ffs(8) == 4 && __clz(1) == 31 && __popc(255u) == 8);
  CHECK(__fns(0b101100u, 3, 2) == 5u && __fns(1u, 0, 2) == ~0u);
}

}  // namespace
