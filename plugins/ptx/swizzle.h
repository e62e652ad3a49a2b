// The shared-memory swizzles that TMA writes and wgmma reads, for host and device code.
#pragma once

#include <cstdint>

namespace paro {

// How 16-byte chunks are permuted within rows of 32, 64 or 128 bytes; the values are the number of
// address bits involved.
enum class Swizzle : uint32_t { none = 0, b32 = 1, b64 = 2, b128 = 3 };

}  // namespace paro
