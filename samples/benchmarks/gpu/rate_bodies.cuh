// What `rates.cu` repeats: one step of each pipe that the time model of docs/kernels.md rests on.
// A body's chains do not wait for each other; their values stay finite and differ from lane to lane,
// since products of zeros draw less power and clock higher. `work` is what one step of a thread
// does, in the body's unit.
#pragma once

#include "ptx/convert.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mma.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"

namespace rates {

using namespace paro;

constexpr int chains = 8;

__device__ inline uint32_t next(uint32_t& bits) { return bits = bits * 1664525u + 1013904223u; }

// A float in [0.5, 1.5).
__device__ inline float next_float(uint32_t& bits) {
  return 0.5f + static_cast<float>(next(bits) >> 8) * 0x1p-24f;
}

// Bodies of scalar instructions: how many threads an SM holds, no shared memory.
struct Scalars {
  static constexpr int threads = 256, blocks_per_sm = 4, shared_bytes = 0;
};

template <bool is_integer>
struct WarpProducts : Scalars {
  static constexpr const char* name = is_integer ? "mma.sync s8" : "mma.sync bf16";
  static constexpr const char* unit = "operations";
  static constexpr double work = chains * 2.0 * 16 * 8 * (is_integer ? 32 : 16) / 32;

  uint32_t a[4], b[2];
  int32_t sums[chains][4] = {};
  float totals[chains][4] = {};

  __device__ WarpProducts(uint8_t*, uint32_t bits) {
    // As bfloat16: numbers near one, of both signs.
    const auto fill = [&](uint32_t& x) {
      x = is_integer ? next(bits) : (next(bits) & 0x807F807Fu) | 0x3F003F00u;
    };
    for (uint32_t& x : a) fill(x);
    for (uint32_t& x : b) fill(x);
  }
  __device__ void step() {
#pragma unroll
    for (int i = 0; i < chains; i++) {
      if constexpr (is_integer) ptx::mma_s8_s8(sums[i], a, b);
      else ptx::mma_bf16(totals[i], a, b);
    }
  }
  __device__ uint32_t result() const {
    uint32_t all = 0;
    for (int i = 0; i < chains * 4; i++) {
      all ^= is_integer ? static_cast<uint32_t>(sums[i / 4][i % 4])
                        : __float_as_uint(totals[i / 4][i % 4]);
    }
    return all;
  }
};

// 64 x 256 x 32 products of two warpgroups an SM; B, and A where it is shared, K-major with the
// 128-byte swizzle, whatever its content.
template <bool a_in_registers>
struct WarpgroupProducts {
  static constexpr const char* name = a_in_registers ? "wgmma u8 s8, A in registers"
                                                     : "wgmma s8, A in shared memory";
  static constexpr const char* unit = "operations";
  static constexpr int threads = 256, blocks_per_sm = 1, columns = 256, k_steps = 4;
  static constexpr int row_bytes = 128, rows = 2 * 64 + columns;
  static constexpr int shared_bytes = rows * row_bytes;
  static constexpr double work = k_steps * 2.0 * 64 * columns * 32 / 128;

#if PARO_HAS_WGMMA
  uint64_t a, b;
  uint32_t fragment[4];
  int32_t sums[columns / 2] = {};

  __device__ WarpgroupProducts(uint8_t* shared, uint32_t bits) {
    auto* words = reinterpret_cast<uint32_t*>(shared);
    for (uint32_t i = threadIdx.x; i < shared_bytes / 4; i += threads) words[i] = next(bits);
    for (uint32_t& x : fragment) x = next(bits);
    ptx::fence_proxy_async();
    __syncthreads();  // sync: the tiles are written
    const uint32_t base = ptx::shared_u32(shared);
    a = ptx::wgmma_descriptor(base + threadIdx.x / 128 * 64 * row_bytes, Swizzle::b128);
    b = ptx::wgmma_descriptor(base + 2 * 64 * row_bytes, Swizzle::b128);
  }
  __device__ void step() {
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < k_steps; k++) {
      if constexpr (a_in_registers) ptx::wgmma_u8_s8<columns>(sums, fragment, b + 2 * k, true);
      else ptx::wgmma_s8_s8<columns>(sums, a + 2 * k, b + 2 * k, true);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::wgmma_settle(sums);
  }
  __device__ uint32_t result() const {
    uint32_t all = 0;
    for (const int32_t x : sums) all ^= static_cast<uint32_t>(x);
    return all;
  }
#else
  __device__ WarpgroupProducts(uint8_t*, uint32_t) {}
  __device__ void step() {}
  __device__ uint32_t result() const { return 0; }
#endif
};

struct Exponentials : Scalars {
  static constexpr const char* name = "ex2";
  static constexpr const char* unit = "results";
  static constexpr double work = chains;

  float x[chains];

  __device__ Exponentials(uint8_t*, uint32_t bits) {
    for (float& value : x) value = next_float(bits);
  }
  __device__ void step() {
#pragma unroll
    for (float& value : x) value = ptx::exp2_approx(-value);  // towards 0.64
  }
  __device__ uint32_t result() const {
    uint32_t all = 0;
    for (const float value : x) all ^= __float_as_uint(value);
    return all;
  }
};

struct MultiplyAdds : Scalars {
  static constexpr const char* name = "FFMA";
  static constexpr const char* unit = "results";
  static constexpr double work = chains;

  float x[chains], factor, addend;

  __device__ MultiplyAdds(uint8_t*, uint32_t bits) {
    for (float& value : x) value = next_float(bits);
    factor = next_float(bits) * 0.5f;
    addend = next_float(bits);
  }
  __device__ void step() {
#pragma unroll
    for (float& value : x) value = fmaf(value, factor, addend);
  }
  __device__ uint32_t result() const {
    uint32_t all = 0;
    for (const float value : x) all ^= __float_as_uint(value);
    return all;
  }
};

struct IntegersToFloats : Scalars {
  static constexpr const char* name = "I2F s32";
  static constexpr const char* unit = "results";
  static constexpr double work = chains;

  int32_t x[chains];

  __device__ IntegersToFloats(uint8_t*, uint32_t bits) {
    for (int32_t& value : x) value = static_cast<int32_t>(next(bits) >> 4);
  }
  __device__ void step() {
#pragma unroll
    for (int32_t& value : x) value = __float_as_int(__int2float_rn(value));
  }
  __device__ uint32_t result() const {
    uint32_t all = 0;
    for (const int32_t value : x) all ^= static_cast<uint32_t>(value);
    return all;
  }
};

// Floats to four bytes of a word: two F2IP, each of two floats, from sm_89 on.
struct Packing : Scalars {
  static constexpr const char* name = "pack to u8";
  static constexpr const char* unit = "bytes packed";
  static constexpr double work = chains * 4.0;

  uint32_t x[chains];
  float first, second;

  __device__ Packing(uint8_t*, uint32_t bits) {
    for (uint32_t& value : x) value = next(bits);
    first = next_float(bits) * 100.0f;
    second = next_float(bits) * 100.0f;
  }
  __device__ void step() {
#pragma unroll
    for (uint32_t& word : x) {
      const float changing = __uint_as_float(word);
      word = ptx::pack_u8x4(first, changing, second, changing);
    }
  }
  __device__ uint32_t result() const {
    uint32_t all = 0;
    for (const uint32_t value : x) all ^= value;
    return all;
  }
};

// ldmatrix.x4: 512 bytes a warp, rows apart as the swizzle leaves them, without bank conflicts.
struct SharedLoads {
  static constexpr const char* name = "shared memory, ldmatrix";
  static constexpr const char* unit = "bytes";
  static constexpr int threads = 256, blocks_per_sm = 4, shared_bytes = 16 << 10;
  static constexpr double work = chains * 16.0;

  uint32_t address, all[4] = {};

  __device__ SharedLoads(uint8_t* shared, uint32_t bits) {
    auto* words = reinterpret_cast<uint32_t*>(shared);
    for (uint32_t i = threadIdx.x; i < shared_bytes / 4; i += threads) words[i] = next(bits);
    __syncthreads();  // sync: there is something to read
    address = ptx::shared_u32(shared) + threadIdx.x % 32 * 16;
  }
  __device__ void step() {
#pragma unroll
    for (int i = 0; i < chains; i++) {
      uint32_t loaded[4];
      ptx::ldmatrix_x4(loaded, address + i * 512);
      for (int part = 0; part < 4; part++) all[part] ^= loaded[part];
    }
  }
  __device__ uint32_t result() const { return all[0] ^ all[1] ^ all[2] ^ all[3]; }
};

}  // namespace rates
