// Compares warp and block collectives with plain loops, and checks the diagnoses of their misuse.
#include "emulator/tests/check.h"
#include "ptx/warp.cuh"

using namespace paro;

namespace {

struct WarpResults {
  int from_lane, flipped, up, down, in_segment;
  unsigned ballot;
  int any, all, sum, maximum;
};

__global__ void warp_functions(const int* values, WarpResults* results) {
  const int value = values[threadIdx.x];
  WarpResults& mine = results[threadIdx.x];
  mine.from_lane = __shfl_sync(~0u, value, 5);
  mine.flipped = __shfl_xor_sync(~0u, value, 3);
  mine.up = __shfl_up_sync(~0u, value, 2);
  mine.down = __shfl_down_sync(~0u, value, 2);
  mine.in_segment = __shfl_sync(~0u, value, 1, 8);
  mine.ballot = __ballot_sync(~0u, value > 0);
  mine.any = __any_sync(~0u, value > 90);
  mine.all = __all_sync(~0u, value > -101);
  mine.sum = __reduce_add_sync(~0u, value);
  mine.maximum = __reduce_max_sync(~0u, value);
}

TEST(warp_functions_match_loops) {
  check::in_every_mode([](const std::string& mode) {
    constexpr int threads = 96;
    const auto values = check::random_integers<int>(threads, -100, 100);
    std::vector<WarpResults> results(threads);
    CHECK_RUNS(warp_functions, {1, threads}, values.data(), results.data());
    for (int thread = 0; thread < threads; thread++) {
      const int* warp = values.data() + thread / 32 * 32;
      const int lane = thread % 32;
      unsigned ballot = 0;
      int sum = 0, maximum = -101, any = 0;
      for (int i = 0; i < 32; i++) {
        ballot |= static_cast<unsigned>(warp[i] > 0) << i;
        sum += warp[i];
        maximum = std::max(maximum, warp[i]);
        any |= warp[i] > 90;
      }
      const WarpResults& mine = results[static_cast<size_t>(thread)];
      CHECK_MESSAGE(mine.from_lane == warp[5], mode);
      CHECK_MESSAGE(mine.flipped == warp[lane ^ 3], mode);
      CHECK_MESSAGE(mine.up == warp[lane < 2 ? lane : lane - 2], mode);
      CHECK_MESSAGE(mine.down == warp[lane > 29 ? lane : lane + 2], mode);
      CHECK_MESSAGE(mine.in_segment == warp[lane / 8 * 8 + 1], mode);
      CHECK_MESSAGE(mine.ballot == ballot && mine.any == any && mine.all == 1, mode);
      CHECK_MESSAGE(mine.sum == sum && mine.maximum == maximum, mode);
    }
  });
}

// Each half of a warp runs its own collectives.
__global__ void half_warps(int* results) {
  const unsigned mask = threadIdx.x < 16 ? 0xFFFFu : 0xFFFF0000u;
  results[threadIdx.x] = __reduce_add_sync(mask, static_cast<int>(threadIdx.x));
}

TEST(disjoint_masks_do_not_mix) {
  std::vector<int> results(32);
  CHECK_RUNS(half_warps, {1, 32}, results.data());
  CHECK(results[0] == 120 && results[31] == 376);
}

__global__ void index_variables(uint3* threads, uint3* blocks) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned at = block * blockDim.x * blockDim.y * blockDim.z + thread;
  threads[at] = threadIdx;
  blocks[at] = blockIdx;
}

TEST(indices_on_several_os_threads) {
  const check::ScopedOptions restore;
  emulator::options().os_threads = 3;
  std::vector<uint3> threads(2 * 3 * 4 * 64), blocks(threads.size());
  CHECK_RUNS(index_variables, {dim3(2, 3, 4), dim3(8, 4, 2)}, threads.data(), blocks.data());
  for (unsigned at = 0; at < threads.size(); at++) {
    const unsigned thread = at % 64, block = at / 64;
    CHECK(threads[at].x == thread % 8 && threads[at].y == thread / 8 % 4 &&
          threads[at].z == thread / 32);
    CHECK(blocks[at].x == block % 2 && blocks[at].y == block / 2 % 3 && blocks[at].z == block / 6);
  }
}

__global__ void reverse_through_shared(const int* in, int* out) {
  DYN_SMEM(shared);
  auto* tile = reinterpret_cast<int*>(shared);
  tile[threadIdx.x] = in[threadIdx.x];
  __syncthreads();  // sync: every element is written before it is read
  out[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

TEST(block_barrier_orders_shared_memory) {
  check::in_every_mode([](const std::string& mode) {
    const auto in = check::random_integers<int>(256, -1000, 1000);
    std::vector<int> out(256);
    CHECK_RUNS(reverse_through_shared, {1, 256, 1024}, in.data(), out.data());
    CHECK_MESSAGE(std::equal(in.rbegin(), in.rend(), out.begin()), mode);
  });
}

// Two pairs of warps, each with its own barrier, and a producer that only arrives.
__global__ void pairs_and_producer(int* out) {
  DYN_SMEM(shared);
  auto* words = reinterpret_cast<int*>(shared);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (warp < 4) {
    words[threadIdx.x] = static_cast<int>(threadIdx.x);
    // sync: the two warps of a pair have written
    ptx::named_barrier_sync(1 + warp / 2, 64);
    out[threadIdx.x] = words[(warp ^ 1) * 32 + lane];
  } else if (warp == 4) {
    words[128 + lane] = lane * lane;
    ptx::named_barrier_arrive(3, 64);
  } else {
    ptx::named_barrier_sync(3, 64);  // sync: warp 4 has written
    out[128 + lane] = words[128 + lane];
  }
}

TEST(named_barriers) {
  check::in_every_mode([](const std::string& mode) {
    std::vector<int> out(160);
    CHECK_RUNS(pairs_and_producer, {1, 192, 1024}, out.data());
    for (int i = 0; i < 128; i++) CHECK_MESSAGE(out[static_cast<size_t>(i)] == (i ^ 32), mode);
    for (int i = 0; i < 32; i++) CHECK_MESSAGE(out[static_cast<size_t>(128 + i)] == i * i, mode);
  });
}

// ---- misuse ----

__global__ void shuffle_in_half_a_warp(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(~0u, 1, 1);
}

__global__ void different_collectives(int* out) {
  if (threadIdx.x < 16) {
    out[threadIdx.x] = __shfl_xor_sync(~0u, 1, 1);
  } else {
    out[threadIdx.x] = __any_sync(~0u, 1);
  }
}

__global__ void not_in_own_mask(int* out) { out[threadIdx.x] = __shfl_sync(0xFFFFu, 1, 0); }

__global__ void barrier_in_half_a_warp() {
  if (threadIdx.x % 32 < 16) {
    __syncthreads();  // sync: planted misuse
  } else {
    __syncthreads();  // sync: planted misuse
  }
}

__global__ void barrier_missed_by_a_warp() {
  if (threadIdx.x < 96) __syncthreads();  // sync: planted misuse
}

__global__ void barrier_with_wrong_count() {
  ptx::named_barrier_sync(1, threadIdx.x < 32 ? 64 : 96);
}

__global__ void barrier_arrived_twice() {
  ptx::named_barrier_arrive(2, 96);
  ptx::named_barrier_arrive(2, 96);
}

TEST(divergence_is_diagnosed) {
  std::vector<int> out(64);
  CHECK_FAULT(deadlock, "__shfl_xor_sync", shuffle_in_half_a_warp, {1, 32}, out.data());
  CHECK_FAULT(divergence, "__shfl_xor_sync", different_collectives, {1, 32}, out.data());
  CHECK_FAULT(divergence, "own mask", not_in_own_mask, {1, 32}, out.data());
}

TEST(barrier_misuse_is_diagnosed) {
  CHECK_FAULT(divergence, ".aligned", barrier_in_half_a_warp, {1, 64});
  CHECK_FAULT(deadlock, "threads 96-127", barrier_missed_by_a_warp, {1, 128});
  CHECK_FAULT(barrier, "expecting 64", barrier_with_wrong_count, {1, 96});
  CHECK_FAULT(barrier, "too many arrivals", barrier_arrived_twice, {1, 128});
}

TEST(diagnoses_name_block_thread_and_line) {
  const check::ScopedOptions restore;
  emulator::options().seed = 0;  // lanes in order: the first one at fault is lane 16
  std::vector<int> out(64);
  const auto found = emulator::try_launch(not_in_own_mask, {1, 32}, out.data());
  CHECK(found && found->warp == 0 && found->lane == 16 && found->line > 0);
  CHECK(found && found->file.find("collectives_test.cpp") != std::string::npos);
  CHECK(found && found->operation == "__shfl_sync");
}

__global__ void nothing() {}

TEST(illegal_launches_are_refused) {
  CHECK_FAULT(launch, "block has 48", nothing, {1, 48});
  CHECK_FAULT(launch, "block has 2048", nothing, {1, dim3(1024, 2)});
  CHECK_FAULT(launch, "grid.y", nothing, {dim3(1, 65536), 32});
  CHECK_FAULT(launch, "grid.x is 0", nothing, {dim3(0), 32});
  CHECK_FAULT(launch, "exceed the 49152", nothing, {1, 32, 49153});
  CHECK_RUNS(nothing, {1, 32, 49152, 4});
  CHECK_FAULT(launch, "no room for 5 blocks", nothing, {1, 32, 49152, 5});
  CHECK(!emulator::set_max_shared_bytes(reinterpret_cast<const void*>(nothing), 232449));
  DeviceSet allowed;
  CHECK(allow_all_shared_bytes(nothing, allowed) == LaunchStatus::ok);
  CHECK_RUNS(nothing, {1, 32, 232448});
}

__global__ void budget(int* held) {
  if (threadIdx.x < 128) {
    ptx::registers_decrease<40>();
  } else {
    ptx::registers_increase<232>();
  }
  held[threadIdx.x] = 1;
}

__global__ void budget_of_two(bool greedy) {
  if (threadIdx.x >= 128) {
    ptx::registers_decrease<24>();
  } else if (greedy) {
    ptx::registers_increase<240>();
  } else {
    ptx::registers_increase<232>();
  }
}

__global__ void greedy_budget() { ptx::registers_increase<232>(); }
__global__ void budget_below_current() { ptx::registers_increase<24>(); }

TEST(register_budget) {
  check::in_every_mode([](const std::string& mode) {
    std::vector<int> held(384);
    CHECK_RUNS(budget, {1, 384}, held.data());
    CHECK_MESSAGE(held == std::vector<int>(384, 1), mode);
  });
  CHECK_FAULT(deadlock, "setmaxnreg.inc", greedy_budget, {1, 384});
  CHECK_FAULT(registers, "below", budget_below_current, {1, 384});
  // Two blocks of 256 threads leave 128 registers per thread. With one block, a thread starts with
  // 256.
  CHECK_RUNS(budget_of_two, {1, 256, 0, 2}, false);
  CHECK_FAULT(deadlock, "setmaxnreg.inc", budget_of_two, {1, 256, 0, 2}, true);
  CHECK_FAULT(registers, "below", budget_of_two, {1, 256, 0, 1}, false);
}

}  // namespace
