#include "emulator/matrix.h"

#include <bit>
#include <cstring>

#include "emulator/block.h"
#include "emulator/float16.h"
#include "emulator/mma_arithmetic.h"

namespace paro::emulator {
namespace {

constexpr uint32_t whole_warp = ~0u;

struct LoadOperand {
  uint32_t address;
  uint32_t* registers;
};

using Matrix8x8 = uint16_t[8][8];

// Reads the eight rows. Returns how many of them use a bank group that another row already uses.
int read_matrix(const std::array<LoadOperand*, 32>& lanes, int which, Matrix8x8& matrix,
                const Place& place) {
  const Thread& first = current_block().threads[static_cast<size_t>(current_thread().warp * 32)];
  uint32_t bank_groups = 0;
  for (int row = 0; row < 8; row++) {
    const int lane = which * 8 + row;
    const uint32_t address = lanes[static_cast<size_t>(lane)]->address;
    std::memcpy(matrix[row], shared_pointer(address, 16, 16, "ldmatrix", place, &first + lane), 16);
    bank_groups |= 1u << (address / 16 % 8);
  }
  return 8 - std::popcount(bank_groups);
}

uint32_t fragment(const Matrix8x8& matrix, int lane, bool transpose) {
  const int row = lane / 4, column = lane % 4 * 2;
  const uint32_t low = transpose ? matrix[column][row] : matrix[row][column];
  const uint32_t high = transpose ? matrix[column + 1][row] : matrix[row][column + 1];
  return low | high << 16;
}

template <class Accumulator>
struct MmaOperand {
  Accumulator* c;
  const uint32_t* a;
  const uint32_t* b;
};

int element_bits(MmaTypes types) {
  switch (types) {
    case MmaTypes::s4_s4:
    case MmaTypes::u4_s4: return 4;
    case MmaTypes::s8_s8:
    case MmaTypes::u8_s8: return 8;
    default: return 16;
  }
}

// Element `index` of a register.
int16_t integer_element(uint32_t word, int index, int bits, bool is_signed) {
  const uint32_t shifted = word << (32 - bits * (index + 1));
  return static_cast<int16_t>(is_signed ? static_cast<int32_t>(shifted) >> (32 - bits)
                                        : static_cast<int32_t>(shifted >> (32 - bits)));
}

float float_element(uint32_t word, int index, MmaTypes types) {
  const auto bits = static_cast<uint16_t>(word >> 16 * index);
  return types == MmaTypes::f16_f16 ? float_from_half_bits(bits) : float_from_bfloat16_bits(bits);
}

void expand(uint32_t word, MmaTypes types, bool is_a, int16_t* to) {
  const int bits = element_bits(types);
  const bool is_signed = !is_a || (types != MmaTypes::u8_s8 && types != MmaTypes::u4_s4);
  for (int i = 0; i < 32 / bits; i++) to[i] = integer_element(word, i, bits, is_signed);
}

void expand(uint32_t word, MmaTypes types, bool, float* to) {
  for (int i = 0; i < 2; i++) to[i] = float_element(word, i, types);
}

// Fragment layouts of the m16n8 shapes (PTX ISA, "Matrix fragments for mma.m16n8k16/k32/k64"). Lane
// l holds rows l / 4 and l / 4 + 8 of A and C, and column l / 4 of B. Its K elements are
// consecutive; those in the second half of the registers are K / 2 further on.
template <class Element, class Accumulator>
void multiply_tile(MmaTypes types, const std::array<MmaOperand<Accumulator>*, 32>& lanes) {
  const int per_register = 32 / element_bits(types), k = per_register * 8;
  Element a[16 * 64], b[8 * 64];
  Accumulator c[16 * 8];
  for (int lane = 0; lane < 32; lane++) {
    const MmaOperand<Accumulator>& operand = *lanes[static_cast<size_t>(lane)];
    const int row = lane / 4, column = lane % 4;
    for (int half = 0; half < 2; half++) {
      const int at = half * k / 2 + column * per_register;
      expand(operand.a[2 * half], types, true, a + row * k + at);
      expand(operand.a[2 * half + 1], types, true, a + (row + 8) * k + at);
      expand(operand.b[half], types, false, b + row * k + at);
    }
    for (int i = 0; i < 4; i++) c[(row + i / 2 * 8) * 8 + column * 2 + i % 2] = operand.c[i];
  }
  multiply_accumulate(a, b, c, 16, 8, k);
  for (int lane = 0; lane < 32; lane++) {
    const int row = lane / 4, column = lane % 4;
    for (int i = 0; i < 4; i++) {
      lanes[static_cast<size_t>(lane)]->c[i] = c[(row + i / 2 * 8) * 8 + column * 2 + i % 2];
    }
  }
}

const char* mma_name(MmaTypes types) {
  switch (types) {
    case MmaTypes::s8_s8: return "mma.sync s8.s8";
    case MmaTypes::u8_s8: return "mma.sync u8.s8";
    case MmaTypes::s4_s4: return "mma.sync s4.s4";
    case MmaTypes::u4_s4: return "mma.sync u4.s4";
    case MmaTypes::f16_f16: return "mma.sync f16";
    case MmaTypes::bf16_bf16: return "mma.sync bf16";
  }
  return "mma.sync";
}

template <class Element, class Accumulator>
void multiply(MmaTypes types, Accumulator* c, const uint32_t* a, const uint32_t* b,
              const Place& place) {
  MmaOperand<Accumulator> operand{c, a, b};
  warp_collective(whole_warp, {mma_name(types), true}, place, operand, [&](const auto& lanes) {
    current_block().stats.mma++;
    multiply_tile<Element, Accumulator>(types, lanes);
  });
}

}  // namespace

void load_matrices(uint32_t (&registers)[4], bool transpose, uint32_t address,
                   const Place& place) {
  LoadOperand operand{address, registers};
  const char* name = transpose ? "ldmatrix.trans" : "ldmatrix";
  warp_collective(whole_warp, {name, true}, place, operand, [&](const auto& lanes) {
    Stats& stats = current_block().stats;
    stats.ldmatrix++;
    for (int which = 0; which < 4; which++) {
      Matrix8x8 matrix;
      stats.ldmatrix_conflicts += static_cast<uint64_t>(read_matrix(lanes, which, matrix, place));
      for (int lane = 0; lane < 32; lane++) {
        lanes[static_cast<size_t>(lane)]->registers[which] = fragment(matrix, lane, transpose);
      }
    }
  });
}

void multiply_matrices(MmaTypes types, int32_t (&c)[4], const uint32_t (&a)[4],
                       const uint32_t (&b)[2], const Place& place) {
  multiply<int16_t>(types, c, a, b, place);
}

void multiply_matrices(MmaTypes types, float (&c)[4], const uint32_t (&a)[4],
                       const uint32_t (&b)[2], const Place& place) {
  multiply<float>(types, c, a, b, place);
}

}  // namespace paro::emulator
