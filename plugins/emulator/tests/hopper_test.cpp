// mbarrier, TMA and wgmma against plain computations, and their misuse.
#include "emulator/tests/check.h"
#include "ptx/mbarrier.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"

using namespace paro;

namespace {

// ---- mbarrier ----

// Thread 0 hands numbers to the others, one a phase; they answer through a second barrier.
__global__ void ping_pong(int rounds, int* sums) {
  DYN_SMEM(shared);
  auto* number = reinterpret_cast<volatile int*>(shared + 64);
  const uint32_t full = ptx::shared_u32(shared), empty = full + 8;
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(full, 1);
    ptx::mbarrier_init(empty, blockDim.x - 1);
  }
  __syncthreads();  // sync: barriers are initialised
  int sum = 0;
  for (int round = 0; round < rounds; round++) {
    const uint32_t parity = static_cast<uint32_t>(round) & 1u;
    if (threadIdx.x == 0) {
      ptx::mbarrier_wait(empty, parity ^ 1u);
      *number = round * round;
      ptx::mbarrier_arrive(full);
    } else {
      ptx::mbarrier_wait(full, parity);
      sum += *number;
      ptx::mbarrier_arrive(empty);
    }
  }
  sums[threadIdx.x] = sum;
}

TEST(mbarrier_phases) {
  check::in_every_mode([](const std::string& mode) {
    std::vector<int> sums(64);
    CHECK_RUNS(ping_pong, {1, 64, 128}, 7, sums.data());
    for (size_t i = 1; i < 64; i++) CHECK_MESSAGE(sums[i] == 91, mode);
  });
}

__global__ void mbarrier_misuse(int what) {
  DYN_SMEM(shared);
  const uint32_t barrier = ptx::shared_u32(shared);
  if (threadIdx.x != 0) return;
  switch (what) {
    case 0: return ptx::mbarrier_arrive(barrier);
    case 1: return ptx::mbarrier_init(barrier + 4, 1);
    case 2: return ptx::mbarrier_init(barrier, 0);
    default: break;
  }
  ptx::mbarrier_init(barrier, 1);
  switch (what) {
    case 3: return ptx::mbarrier_init(barrier, 1);
    case 4: shared[3] = 1; return ptx::mbarrier_arrive(barrier);
    case 5: return ptx::mbarrier_wait(barrier, 0);
    case 6: ptx::mbarrier_arrive_expect(barrier, 64); return ptx::mbarrier_arrive(barrier);
    case 7: ptx::mbarrier_invalidate(barrier); return ptx::mbarrier_arrive(barrier);
    default: break;
  }
}

TEST(mbarrier_misuse_is_diagnosed) {
  CHECK_FAULT(mbarrier, "no mbarrier was initialised", mbarrier_misuse, {1, 32, 64}, 0);
  CHECK_FAULT(shared_memory, "misaligned", mbarrier_misuse, {1, 32, 64}, 1);
  CHECK_FAULT(mbarrier, "count 0", mbarrier_misuse, {1, 32, 64}, 2);
  CHECK_FAULT(mbarrier, "live", mbarrier_misuse, {1, 32, 64}, 3);
  CHECK_FAULT(mbarrier, "overwritten", mbarrier_misuse, {1, 32, 64}, 4);
  CHECK_FAULT(deadlock, "parity 0", mbarrier_misuse, {1, 32, 64}, 5);
  CHECK_FAULT(mbarrier, "too many arrivals", mbarrier_misuse, {1, 32, 64}, 6);
  CHECK_FAULT(mbarrier, "no mbarrier was initialised", mbarrier_misuse, {1, 32, 64}, 7);
}

// ---- TMA ----

// Loads one box, copies its shared image out, and stores it to another place.
__global__ void move_box(const __grid_constant__ TensorMap from,
                         const __grid_constant__ TensorMap to, int x, int y, uint32_t bytes,
                         uint8_t* image) {
  DYN_SMEM(shared);
  const uint32_t tile = ptx::shared_u32(shared), barrier = tile + bytes;
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(barrier, 1);
    ptx::fence_mbarrier_init();
    ptx::mbarrier_arrive_expect(barrier, bytes);
    ptx::tma_load_2d(tile, from, x, y, barrier);
  }
  __syncthreads();  // sync: the barrier is initialised
  ptx::mbarrier_wait(barrier, 0);
  for (uint32_t i = threadIdx.x; i < bytes; i += blockDim.x) image[i] = shared[i];
  if (threadIdx.x == 0) {
    ptx::fence_proxy_async();
    ptx::tma_store_2d(to, x, y, tile);
    ptx::tma_store_commit();
    ptx::tma_store_wait<0>();
  }
}

struct Box {
  uint32_t columns, rows, element_bytes;
  Swizzle swizzle;
  int x, y;
};

// Where a byte of an unswizzled box lies: the three patterns of the CUDA programming guide, in
// which a 16-byte chunk of a row moves to (chunk XOR row) within its group of 2, 4 or 8 chunks.
size_t swizzled_offset(Swizzle swizzle, size_t offset) {
  const size_t line = offset / 128, chunk = offset / 16 % 8, in_chunk = offset % 16;
  size_t to = chunk;
  if (swizzle == Swizzle::b128) to = chunk ^ line % 8;
  if (swizzle == Swizzle::b64) to = chunk ^ line % 4;
  if (swizzle == Swizzle::b32) to = chunk ^ line % 2;
  return line * 128 + to * 16 + in_chunk;
}

void check_box(const Box& box, const std::string& mode) {
  constexpr uint64_t columns = 90, rows = 50;
  const uint64_t row_bytes = (columns * box.element_bytes + 15) / 16 * 16;
  std::vector<uint4> storage(row_bytes * rows / 16), target(storage.size());
  auto* in = reinterpret_cast<uint8_t*>(storage.data());
  auto* out = reinterpret_cast<uint8_t*>(target.data());
  for (size_t i = 0; i < row_bytes * rows; i++) in[i] = static_cast<uint8_t>(check::random_word());
  TensorTile tile{
      in, {columns, rows}, row_bytes, {box.columns, box.rows}, box.element_bytes, box.swizzle};
  TensorMap from, to;
  CHECK(encode_tensor_map(tile, &from) == TensorMapStatus::ok);
  tile.data = out;
  CHECK(encode_tensor_map(tile, &to) == TensorMapStatus::ok);
  const uint32_t bytes = box.columns * box.rows * box.element_bytes;
  std::vector<uint8_t> image(bytes);
  CHECK_RUNS(move_box, {1, 64, bytes + 8}, from, to, box.x, box.y, bytes, image.data());
  for (size_t row = 0; row < box.rows; row++) {
    for (size_t byte = 0; byte < box.columns * box.element_bytes; byte++) {
      const int64_t gx = box.x + static_cast<int64_t>(byte / box.element_bytes);
      const int64_t gy = box.y + static_cast<int64_t>(row);
      const bool inside = gx >= 0 && gx < int64_t{columns} && gy >= 0 && gy < int64_t{rows};
      const size_t global = static_cast<size_t>(gy) * row_bytes +
                            static_cast<size_t>(gx) * box.element_bytes + byte % box.element_bytes;
      const size_t offset = row * box.columns * box.element_bytes + byte;
      CHECK_MESSAGE(image[swizzled_offset(box.swizzle, offset)] == (inside ? in[global] : 0), mode);
      if (inside) CHECK_MESSAGE(out[global] == in[global], mode);
    }
  }
}

TEST(tma_moves_boxes) {
  check::in_every_mode([](const std::string& mode) {
    check_box({48, 20, 1, Swizzle::none, 5, 7}, mode);
    check_box({64, 40, 1, Swizzle::b64, 40, 20}, mode);
    check_box({64, 24, 2, Swizzle::b128, -11, -3}, mode);
    check_box({16, 8, 2, Swizzle::b32, 80, 46}, mode);
    check_box({32, 16, 4, Swizzle::b128, 60, 48}, mode);
  });
}

TEST(illegal_tensor_maps_are_refused) {
  alignas(16) static uint8_t data[4096];
  const TensorTile good{data, {64, 32}, 64, {64, 32}, 1, Swizzle::b64};
  const auto refused = [&](auto change) {
    TensorTile tile = good;
    change(tile);
    TensorMap map;
    return encode_tensor_map(tile, &map) == TensorMapStatus::refused;
  };
  CHECK(!refused([](TensorTile&) {}));
  CHECK(refused([](TensorTile& tile) { tile.data = data + 8; }));
  CHECK(refused([](TensorTile& tile) { tile.row_bytes = 72; }));
  CHECK(refused([](TensorTile& tile) { tile.row_bytes = 48; }));
  CHECK(refused([](TensorTile& tile) { tile.box[1] = 257; }));
  CHECK(refused([](TensorTile& tile) { tile.box[0] = 40; }));
  CHECK(refused([](TensorTile& tile) { tile.swizzle = Swizzle::b128; }));
  CHECK(refused([](TensorTile& tile) { tile.extent[1] = 0; }));
}

__global__ void load_box(const __grid_constant__ TensorMap from, uint32_t offset, int what) {
  DYN_SMEM(shared);
  const uint32_t tile = ptx::shared_u32(shared), barrier = tile + 4096;
  if (threadIdx.x != 0) return;
  ptx::mbarrier_init(barrier, 1);
  if (what != 1) ptx::fence_mbarrier_init();
  ptx::mbarrier_arrive_expect(barrier, 2048);
  ptx::tma_load_2d(tile + offset, from, 0, 0, barrier);
  if (what != 2) ptx::mbarrier_wait(barrier, 0);
}

TEST(tma_misuse_is_diagnosed) {
  const check::ScopedOptions restore;
  emulator::options().late = true;
  alignas(16) static uint8_t data[4096];
  TensorMap map;
  CHECK(encode_tensor_map({data, {64, 32}, 64, {64, 32}, 1, Swizzle::b64}, &map) ==
        TensorMapStatus::ok);
  CHECK_RUNS(load_box, {1, 32, 4104}, map, 0u, 0);
  CHECK_FAULT(shared_memory, "misaligned", load_box, {1, 32, 4104}, map, 64u, 0);
  CHECK_FAULT(shared_memory, "outside", load_box, {1, 32, 4104}, map, 4096u, 0);
  CHECK_FAULT(mbarrier, "fence", load_box, {1, 32, 4104}, map, 0u, 1);
  CHECK_FAULT(pending_at_exit, "in flight", load_box, {1, 32, 4104}, map, 0u, 2);
  CHECK_FAULT(tensor_copy, "tensor map", load_box, {1, 32, 4104}, TensorMap{}, 0u, 0);
}

__global__ void copy_bytes(const uint8_t* from, uint32_t bytes, uint32_t offset, int what,
                           uint8_t* image) {
  DYN_SMEM(shared);
  const uint32_t barrier = ptx::shared_u32(shared);
  const bool is_first = threadIdx.x == 0;
  if (is_first) {
    ptx::mbarrier_init(barrier, 1);
    if (what != 1) ptx::fence_mbarrier_init();
    ptx::mbarrier_arrive_expect(barrier, bytes);
    ptx::bulk_load(barrier + offset, from, bytes, barrier);
  }
  __syncthreads();  // sync: the barrier is initialised
  if (what != 2) ptx::mbarrier_wait(barrier, 0);
  for (uint32_t i = threadIdx.x; i < bytes; i += blockDim.x) image[i] = shared[offset + i];
}

TEST(bulk_copies_move_bytes) {
  alignas(16) static uint8_t data[2048];
  for (uint8_t& byte : data) byte = static_cast<uint8_t>(check::random_word());
  check::in_every_mode([](const std::string& mode) {
    for (const uint32_t bytes : {16u, 1040u}) {
      std::vector<uint8_t> image(bytes);
      CHECK_RUNS(copy_bytes, {1, 64, 2048}, data + 32, bytes, 48u, 0, image.data());
      CHECK_MESSAGE(std::memcmp(image.data(), data + 32, bytes) == 0, mode);
    }
  });
}

TEST(bulk_copy_misuse_is_diagnosed) {
  const check::ScopedOptions restore;
  emulator::options().late = true;
  alignas(16) static uint8_t data[2048];
  std::vector<uint8_t> image(2048);
  const emulator::LaunchShape shape{1, 32, 1024};
  CHECK_FAULT(tensor_copy, "multiple of 16", copy_bytes, shape, data, 40u, 16u, 0, image.data());
  CHECK_FAULT(tensor_copy, "aligned to 16", copy_bytes, shape, data + 8, 32u, 16u, 0, image.data());
  CHECK_FAULT(tensor_copy, "0 bytes", copy_bytes, shape, data, 0u, 16u, 0, image.data());
  CHECK_FAULT(shared_memory, "misaligned", copy_bytes, shape, data, 32u, 24u, 0, image.data());
  CHECK_FAULT(shared_memory, "outside", copy_bytes, shape, data, 1024u, 16u, 0, image.data());
  CHECK_FAULT(mbarrier, "fence", copy_bytes, shape, data, 32u, 16u, 1, image.data());
  CHECK_FAULT(pending_at_exit, "in flight", copy_bytes, shape, data, 32u, 16u, 2, image.data());
}

// ---- wgmma ----

// Layout of a 32-byte wide K-major tile in shared memory.
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

// d = start + A B, then once more on top: A from shared memory (SS) or registers (RS).
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
