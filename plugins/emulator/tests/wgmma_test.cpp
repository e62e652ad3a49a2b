// Compares wgmma with plain products, and checks its misuse.
#include "emulator/tests/check.h"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"

using namespace paro;

namespace {

// The layout of a 32-byte wide K-major tile in shared memory.
constexpr uint32_t tile_offset(Swizzle swizzle, uint32_t row, uint32_t byte) {
  if (swizzle == Swizzle::none) return row / 8 * 256 + byte / 16 * 128 + row % 8 * 16 + byte % 16;
  const uint32_t pitch = 16u << static_cast<uint32_t>(swizzle), linear = row * pitch + byte;
  const uint32_t mask = (1u << static_cast<uint32_t>(swizzle)) - 1;
  return linear ^ (linear >> 7 & mask) << 4;
}

__device__ uint64_t tile_descriptor(uint32_t tile, Swizzle swizzle) {
  return swizzle == Swizzle::none ? ptx::wgmma_descriptor(tile, swizzle, 256, 128)
                                  : ptx::wgmma_descriptor(tile, swizzle);
}

// Computes d = start + A B, then adds A B once more. A is in shared memory (SS) or registers (RS).
template <int N, Swizzle Pattern, bool ARegisters, bool AUnsigned>
__global__ void two_products(const uint8_t* a, const uint8_t* b, int32_t* d) {
  DYN_SMEM(shared);
  constexpr uint32_t a_bytes = 8192;
  const uint32_t thread = threadIdx.x, base = ptx::shared_u32(shared);
  for (uint32_t i = thread; i < 64 * 32; i += 128) {
    shared[tile_offset(Pattern, i / 32, i % 32)] = a[i];
  }
  for (uint32_t i = thread; i < N * 32; i += 128) {
    shared[a_bytes + tile_offset(Pattern, i / 32, i % 32)] = b[i];
  }
  ptx::fence_proxy_async();
  __syncthreads();  // sync: both tiles are written
  const uint64_t a_tile = tile_descriptor(base, Pattern);
  const uint64_t b_tile = tile_descriptor(base + a_bytes, Pattern);
  uint32_t fragment[4];
  for (uint32_t i = 0; i < 4; i++) {
    const uint32_t row = thread / 32 * 16 + thread % 32 / 4 + i % 2 * 8;
    std::memcpy(&fragment[i], a + row * 32 + i / 2 * 16 + thread % 4 * 4, 4);
  }
  int32_t accumulators[N / 2];
  for (int32_t& value : accumulators) value = 12345;
  ptx::wgmma_fence();
  for (int step = 0; step < 2; step++) {
    if constexpr (!ARegisters) {
      ptx::wgmma_s8_s8<N>(accumulators, a_tile, b_tile, step > 0);
    } else if constexpr (AUnsigned) {
      ptx::wgmma_u8_s8<N>(accumulators, fragment, b_tile, step > 0);
    } else {
      ptx::wgmma_s8_s8<N>(accumulators, fragment, b_tile, step > 0);
    }
    ptx::wgmma_commit();
  }
  ptx::wgmma_wait<0>();
  for (uint32_t i = 0; i < N / 2; i++) {
    const uint32_t row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
    d[row * N + i / 4 * 8 + thread % 4 * 2 + i % 2] = accumulators[i];
  }
}

template <int N, Swizzle Pattern, bool ARegisters = false, bool AUnsigned = false>
void check_wgmma() {
  check::in_every_mode([](const std::string& mode) {
    const auto a = check::random_integers<uint8_t>(64 * 32, 0, 255);
    const auto b = check::random_integers<uint8_t>(N * 32, 0, 255);
    std::vector<int32_t> d(64 * N);
    CHECK_RUNS((two_products<N, Pattern, ARegisters, AUnsigned>), {1, 128, 8192 + N * 128},
               a.data(), b.data(), d.data());
    for (size_t row = 0; row < 64; row++) {
      for (size_t column = 0; column < N; column++) {
        int sum = 0;
        for (size_t k = 0; k < 32; k++) {
          const int left = AUnsigned ? a[row * 32 + k] : static_cast<int8_t>(a[row * 32 + k]);
          sum += left * static_cast<int8_t>(b[column * 32 + k]);
        }
        CHECK_MESSAGE(d[row * N + column] == 2 * sum, mode);
      }
    }
  });
}

TEST(wgmma_matches_plain_products) {
  check_wgmma<64, Swizzle::b128>();
  check_wgmma<128, Swizzle::b64>();
  check_wgmma<64, Swizzle::b32>();
  check_wgmma<64, Swizzle::none>();
  check_wgmma<64, Swizzle::b64, true, true>();
  check_wgmma<256, Swizzle::b128, true, false>();
}

__global__ void wgmma_misuse(int what, int32_t* sink) {
  DYN_SMEM(shared);
  const uint32_t base = ptx::shared_u32(shared);
  uint64_t tile = ptx::wgmma_descriptor(base, Swizzle::b64);
  if (what == 1 && threadIdx.x == 77) tile += 2;
  if (what == 2) tile = ptx::wgmma_descriptor(base + 128, Swizzle::b64);
  if (what == 3) tile |= uint64_t{1} << 50;
  if (what == 4) tile = ptx::wgmma_descriptor(base + 8192, Swizzle::b64);
  int32_t accumulators[32] = {};
  if (what != 5) ptx::wgmma_fence();
  ptx::wgmma_s8_s8<64>(accumulators, tile, tile, false);
  ptx::wgmma_commit();
  if (what == 6) accumulators[3] = 1;
  if (what == 7) return;
  ptx::wgmma_wait<0>();
  sink[threadIdx.x] = accumulators[0];
}

TEST(wgmma_misuse_is_diagnosed) {
  std::vector<int32_t> sink(128);
  const emulator::LaunchShape shape{1, 128, 8192};
  CHECK_RUNS(wgmma_misuse, shape, 0, sink.data());
  CHECK_FAULT(wgmma, "thread 77 differs", wgmma_misuse, shape, 1, sink.data());
  CHECK_FAULT(wgmma, "first row", wgmma_misuse, shape, 2, sink.data());
  CHECK_FAULT(wgmma, "base offset", wgmma_misuse, shape, 3, sink.data());
  CHECK_FAULT(shared_memory, "outside", wgmma_misuse, shape, 4, sink.data());
  CHECK_FAULT(wgmma, "wgmma.fence", wgmma_misuse, shape, 5, sink.data());
  CHECK_FAULT(wgmma, "wrote accumulators", wgmma_misuse, shape, 6, sink.data());
  CHECK_FAULT(pending_at_exit, "wgmma", wgmma_misuse, shape, 7, sink.data());
  CHECK_FAULT(divergence, "not complete", wgmma_misuse, {1, 96, 8192}, 0, sink.data());
}

}  // namespace
