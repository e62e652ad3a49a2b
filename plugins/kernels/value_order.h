// The order in which keys lie in a prepared value tile, and where their codes lie in a word.
//
// In the accumulators of S = Q K^T, lane i of four holds keys 8 t + 2 i and 8 t + 2 i + 1 of each
// fragment t of 8 keys. If the rows of V have the same order, these registers, packed, are the
// operand P of P V without a shuffle between lanes.
#pragma once

#include <cstdint>

namespace paro::kernels {

// Key (0..63) whose 8-bit code is byte `position` of a channel's 64 bytes. Each 32-byte half is an
// operand of mma.m16n8k32: bytes 4 i .. 4 i + 3 are lane i's of the low 16, then of the high 16.
constexpr unsigned value_key_s8(unsigned position) {
  const unsigned lane = position % 16 / 4, element = position % 4, quarter = position / 16;
  return quarter * 16 + element / 2 * 8 + lane * 2 + element % 2;
}

// Key whose 4-bit code is nibble `position` of a channel's 64. Each 32-nibble half is an operand
// half of mma.m16n8k64: nibbles 8 i .. 8 i + 7 are lane i's. Even nibbles are the four codes of the
// low 16 keys, odd ones of the high 16, so that they unpack to the operands of two 8-bit registers.
constexpr unsigned value_key_s4(unsigned position) {
  const unsigned half = position / 32, lane = position % 32 / 8, nibble = position % 8;
  const unsigned element = nibble / 2, high = nibble % 2;
  return half * 32 + high * 16 + element / 2 * 8 + lane * 2 + element % 2;
}

}  // namespace paro::kernels
