// Compares mbarriers, between threads and for bulk copies, with plain computations; checks misuse.
#include "emulator/tests/check.h"
#include "ptx/mbarrier.cuh"
#include "ptx/tma.cuh"

using namespace paro;

namespace {

// Thread 0 passes one number per phase to the others, which answer through a second barrier.
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
    default: break;
  }
}

TEST(mbarrier_misuse_is_diagnosed) {
  CHECK_FAULT(mbarrier, "no mbarrier was initialised", mbarrier_misuse, {1, 32, 64}, 0);
  CHECK_FAULT(shared_memory, "misaligned", mbarrier_misuse, {1, 32, 64}, 1);
  CHECK_FAULT(mbarrier, "count 0", mbarrier_misuse, {1, 32, 64}, 2);
  CHECK_FAULT(mbarrier, "initialised already", mbarrier_misuse, {1, 32, 64}, 3);
  CHECK_FAULT(mbarrier, "overwritten", mbarrier_misuse, {1, 32, 64}, 4);
  CHECK_FAULT(deadlock, "parity 0", mbarrier_misuse, {1, 32, 64}, 5);
  CHECK_FAULT(mbarrier, "too many arrivals", mbarrier_misuse, {1, 32, 64}, 6);
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

}  // namespace
