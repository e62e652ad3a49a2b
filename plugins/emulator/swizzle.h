// The shared-memory swizzles that TMA writes and wgmma reads.
#pragma once

#include <cstdint>

namespace paro::emulator {

// Row bytes of the pattern are 16 << value: 16 (no swizzle), 32, 64, 128.
enum class Swizzle : uint32_t { none = 0, b32 = 1, b64 = 2, b128 = 3 };

constexpr uint32_t swizzle_row_bytes(Swizzle swizzle) {
  return 16u << static_cast<uint32_t>(swizzle);
}

// XORs the index of the 16-byte chunk (address bits 4..6) with bits 7..9; the pattern gives how
// many.
constexpr uint32_t swizzled(uint32_t address, Swizzle swizzle) {
  const uint32_t bits = (1u << static_cast<uint32_t>(swizzle)) - 1u;
  return address ^ (address >> 7 & bits) << 4;
}

}  // namespace paro::emulator
