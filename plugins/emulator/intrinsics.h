// The CUDA device functions that kernels call without inline PTX: synchronisation, shuffles, votes,
// conversions and bit operations.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "emulator/block.h"
#include "emulator/collectives.h"

inline void __syncthreads(paro::emulator::Place place = paro::emulator::Place::current()) {
  paro::emulator::block_sync(place);
}

inline void __syncwarp(uint32_t mask = ~0u,
                       paro::emulator::Place place = paro::emulator::Place::current()) {
  int nothing = 0;
  paro::emulator::warp_collective(mask, {"__syncwarp", false}, place, nothing, [](const auto&) {});
}

namespace paro::emulator {

// Each lane receives `value` of lane `source`, or its own value if that lane is not in the mask.
template <class T>
T shuffle(const char* name, uint32_t mask, T value, int source, Place place) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  struct Exchange {
    T given, received;
    int source;
  } exchange{value, value, source};
  warp_collective(mask, {name, false}, place, exchange, [mask](const auto& lanes) {
    for (unsigned lane = 0; lane < 32; lane++) {
      if (!(mask >> lane & 1u)) continue;
      const auto from = static_cast<unsigned>(lanes[lane]->source);
      const bool exists = from < 32 && (mask >> from & 1u);
      lanes[lane]->received = lanes[exists ? from : lane]->given;
    }
  });
  return exchange.received;
}

// Every lane of the mask receives fold(values of the lanes, lowest first).
template <class T, class Fold>
T reduce(const char* name, uint32_t mask, T value, Place place, Fold fold) {
  warp_collective(mask, {name, false}, place, value, [&](const auto& lanes) {
    T result = *lanes[static_cast<size_t>(std::countr_zero(mask))];
    for (unsigned lane = static_cast<unsigned>(std::countr_zero(mask)) + 1; lane < 32; lane++) {
      if (mask >> lane & 1u) result = fold(result, *lanes[lane]);
    }
    for (unsigned lane = 0; lane < 32; lane++) {
      if (mask >> lane & 1u) *lanes[lane] = result;
    }
  });
  return value;
}

// The first lane of the calling lane's segment of `width` lanes.
inline int segment_start(int width) { return current_thread().lane & ~(width - 1); }

}  // namespace paro::emulator

template <class T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32,
              paro::emulator::Place place = paro::emulator::Place::current()) {
  const int lane = paro::emulator::segment_start(width) + (source & (width - 1));
  return paro::emulator::shuffle("__shfl_sync", mask, value, lane, place);
}

template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int flip, int width = 32,
                  paro::emulator::Place place = paro::emulator::Place::current()) {
  const int lane = paro::emulator::current_thread().lane, source = lane ^ flip;
  // A lane may read from earlier segments, but not from later ones.
  const bool readable = source < paro::emulator::segment_start(width) + width;
  return paro::emulator::shuffle("__shfl_xor_sync", mask, value, readable ? source : lane, place);
}

template <class T>
T __shfl_up_sync(uint32_t mask, T value, unsigned distance, int width = 32,
                 paro::emulator::Place place = paro::emulator::Place::current()) {
  const int lane = paro::emulator::current_thread().lane;
  const int source = lane - static_cast<int>(distance);
  const bool readable = source >= paro::emulator::segment_start(width);
  return paro::emulator::shuffle("__shfl_up_sync", mask, value, readable ? source : lane, place);
}

template <class T>
T __shfl_down_sync(uint32_t mask, T value, unsigned distance, int width = 32,
                   paro::emulator::Place place = paro::emulator::Place::current()) {
  const int lane = paro::emulator::current_thread().lane;
  const int source = lane + static_cast<int>(distance);
  const bool readable = source < paro::emulator::segment_start(width) + width;
  return paro::emulator::shuffle("__shfl_down_sync", mask, value, readable ? source : lane, place);
}

inline unsigned __ballot_sync(uint32_t mask, int predicate,
                              paro::emulator::Place place = paro::emulator::Place::current()) {
  const uint32_t bit = predicate != 0 ? 1u << paro::emulator::current_thread().lane : 0u;
  return paro::emulator::reduce("__ballot_sync", mask, bit, place,
                                [](uint32_t x, uint32_t y) { return x | y; });
}

inline int __any_sync(uint32_t mask, int predicate,
                      paro::emulator::Place place = paro::emulator::Place::current()) {
  return paro::emulator::reduce("__any_sync", mask, predicate != 0 ? 1 : 0, place,
                                [](int x, int y) { return x | y; });
}

inline int __all_sync(uint32_t mask, int predicate,
                      paro::emulator::Place place = paro::emulator::Place::current()) {
  return paro::emulator::reduce("__all_sync", mask, predicate != 0 ? 1 : 0, place,
                                [](int x, int y) { return x & y; });
}

template <class T>
T __reduce_add_sync(uint32_t mask, T value,
                    paro::emulator::Place place = paro::emulator::Place::current()) {
  static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned>);
  return static_cast<T>(paro::emulator::reduce("__reduce_add_sync", mask,
                                               static_cast<unsigned>(value), place,
                                               [](unsigned x, unsigned y) { return x + y; }));
}

template <class T>
T __reduce_max_sync(uint32_t mask, T value,
                    paro::emulator::Place place = paro::emulator::Place::current()) {
  static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned>);
  return paro::emulator::reduce("__reduce_max_sync", mask, value, place,
                                [](T x, T y) { return std::max(x, y); });
}

// ---- bits ----

inline float __int_as_float(int value) { return std::bit_cast<float>(value); }
inline float __uint_as_float(unsigned value) { return std::bit_cast<float>(value); }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline int __popc(unsigned value) { return std::popcount(value); }
inline int __clz(int value) { return std::countl_zero(static_cast<unsigned>(value)); }
inline int __ffs(int value) {
  return value == 0 ? 0 : 1 + std::countr_zero(static_cast<unsigned>(value));
}
inline unsigned __fns(unsigned mask, unsigned base, int offset) {
  // Supports only the form that kernels use: the offset-th set bit (1-based) at or above base.
  for (unsigned bit = base; bit < 32; bit++) {
    if ((mask >> bit & 1u) && --offset == 0) return bit;
  }
  return ~0u;
}

// Each nibble of the selector picks one of the eight bytes {high, low}. Its top bit replicates the
// sign.
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; i++) {
    const unsigned pick = selector >> 4 * i & 15u;
    unsigned byte = static_cast<unsigned>(bytes >> 8 * (pick & 7u)) & 255u;
    if (pick & 8u) byte = byte & 128u ? 255u : 0u;
    result |= byte << 8 * i;
  }
  return result;
}

namespace paro::emulator {

template <class A, class B>
uint32_t dot_bytes(uint32_t a, uint32_t b, uint32_t c) {
  for (int i = 0; i < 4; i++) {
    const int x = static_cast<A>(a >> 8 * i), y = static_cast<B>(b >> 8 * i);
    c += static_cast<uint32_t>(x * y);
  }
  return c;
}

}  // namespace paro::emulator

inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  return paro::emulator::dot_bytes<uint8_t, uint8_t>(a, b, c);
}
inline int __dp4a(int a, int b, int c) {
  return static_cast<int>(paro::emulator::dot_bytes<int8_t, int8_t>(
      static_cast<uint32_t>(a), static_cast<uint32_t>(b), static_cast<uint32_t>(c)));
}

// ---- arithmetic and conversions ----

inline float __int2float_rn(int value) { return static_cast<float>(value); }
inline float __uint2float_rn(unsigned value) { return static_cast<float>(value); }
// Saturates. NaN gives 0.
inline int __float2int_rn(float value) {
  if (std::isnan(value)) return 0;
  if (value >= 0x1p31f) return std::numeric_limits<int>::max();
  if (value < -0x1p31f) return std::numeric_limits<int>::min();
  return static_cast<int>(std::nearbyint(value));
}
inline float __fdividef(float numerator, float denominator) { return numerator / denominator; }
inline float __fdiv_rn(float numerator, float denominator) { return numerator / denominator; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
// Rounds towards minus infinity.
inline float __fmaf_rd(float a, float b, float c) {
  const float nearest = std::fma(a, b, c);
  if (!std::isfinite(nearest)) return nearest;
  // The product of two floats is exact in double. TwoSum recovers the part that the sum loses.
  const double product = static_cast<double>(a) * static_cast<double>(b);
  const double sum = product + static_cast<double>(c), part = sum - product;
  const double lost = (product - (sum - part)) + (static_cast<double>(c) - part);
  const double difference = (sum - static_cast<double>(nearest)) + lost;
  return difference < 0 ? std::nextafter(nearest, -std::numeric_limits<float>::infinity())
                        : nearest;
}
inline float __fmaf_ru(float a, float b, float c) { return -__fmaf_rd(-a, b, -c); }
inline float __fadd_rd(float a, float b) { return __fmaf_rd(a, 1.0f, b); }
// Never fused with a neighbouring operation: volatile keeps the compiler from contracting them.
inline float __fmul_rn(float a, float b) {
  const volatile float product = a * b;
  return product;
}
inline float __fadd_rn(float a, float b) {
  const volatile float sum = a + b;
  return sum;
}
inline float __frcp_rn(float value) { return 1.0f / value; }
inline float rsqrtf(float value) { return 1.0f / std::sqrt(value); }

using std::max;
using std::min;

template <class T>
T __ldg(const T* pointer) {
  return *pointer;
}

// ---- atomics on global or shared memory ----

inline int atomicAdd(int* address, int value) {
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
inline unsigned atomicAdd(unsigned* address, unsigned value) {
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
inline unsigned atomicOr(unsigned* address, unsigned value) {
  return __atomic_fetch_or(address, value, __ATOMIC_RELAXED);
}
