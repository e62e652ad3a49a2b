// Launches from several OS threads at once, as several contexts of one process make them.
#include <thread>

#include "emulator/tests/check.h"
#include "ptx/warp.cuh"

using namespace paro;

namespace {

constexpr unsigned grid = 3;

// Each thread adds a lane's word and passes the sum on through shared memory.
__global__ void neighbours(const uint32_t* in, uint32_t* out) {
  DYN_SMEM(shared);
  auto* words = reinterpret_cast<uint32_t*>(shared);
  const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
  words[threadIdx.x] = in[at] + __shfl_xor_sync(~0u, in[at], 5);
  __syncthreads();  // sync: every element is written before it is read
  out[at] = words[(threadIdx.x + 33) % blockDim.x];
}

std::vector<uint32_t> expected_neighbours(const std::vector<uint32_t>& in, unsigned threads) {
  std::vector<uint32_t> out(in.size());
  for (unsigned at = 0; at < in.size(); at++) {
    const unsigned read = at / threads * threads + (at % threads + 33) % threads;
    out[at] = in[read] + in[read ^ 5];
  }
  return out;
}

__global__ void half_a_block_waits(uint32_t* out) {
  if (threadIdx.x < 32) ptx::named_barrier_sync(1, 64);
  out[threadIdx.x] = 1;
}

// The launches of one OS thread, all with one shape, and their results.
struct Caller {
  unsigned threads;
  std::vector<uint32_t> in;
  bool wrong = false;
  int deadlocks = 0;

  void run(int rounds) {
    const std::vector<uint32_t> expected = expected_neighbours(in, threads);
    for (int round = 0; round < rounds; round++) {
      std::vector<uint32_t> out(in.size()), unused(64);
      const auto found =
          emulator::try_launch(neighbours, {grid, threads, threads * sizeof(uint32_t)},
                               static_cast<const uint32_t*>(in.data()), out.data());
      wrong |= found.has_value() || out != expected;
      const auto stopped = emulator::try_launch(half_a_block_waits, {1, 64}, unused.data());
      deadlocks += stopped.has_value() && stopped->fault == emulator::Fault::deadlock;
    }
  }
};

TEST(launches_from_several_os_threads) {
  check::in_every_mode([](const std::string& mode) {
    constexpr int rounds = 20;
    std::vector<Caller> callers;
    for (const unsigned threads : {32u, 64u, 160u, 256u}) {
      callers.push_back({threads, check::random_words(size_t{grid} * threads)});
    }
    std::vector<std::thread> running;
    for (Caller& caller : callers) running.emplace_back([&caller] { caller.run(rounds); });
    for (std::thread& thread : running) thread.join();
    for (const Caller& caller : callers) {
      CHECK_MESSAGE(!caller.wrong, mode);
      CHECK_MESSAGE(caller.deadlocks == rounds, mode);
    }
  });
}

}  // namespace
