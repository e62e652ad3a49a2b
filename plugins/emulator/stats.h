// Counts of what the emulated kernels did, summed over blocks.
#pragma once

#include <cstdint>

namespace paro::emulator {

struct Stats {
  uint64_t thread_switches = 0;
  uint64_t async_copies = 0;
  uint64_t ldmatrix = 0;
  // Additional shared-memory wavefronts of ldmatrix. It is 0 if the eight rows of every 8x8 matrix
  // lie in distinct 16-byte bank groups.
  uint64_t ldmatrix_conflicts = 0;
  uint64_t mma = 0;
  uint64_t wgmma = 0;
  uint64_t bulk_loads = 0;

  Stats& operator+=(const Stats& other);
};

// Sum over the launches finished since reset_stats().
Stats stats();
void reset_stats();
void add_to_stats(const Stats& block);

}  // namespace paro::emulator
