// The sixteen hardware barriers of a block: __syncthreads, bar.sync and bar.arrive.
#pragma once

#include <array>
#include <vector>

#include "emulator/diagnosis.h"

namespace paro::emulator {

class NamedBarriers {
 public:
  explicit NamedBarriers(int warps) : warps_(warps) { reset(); }
  void reset();
  void arrive(int id, int expected_threads, bool wait, const char* operation, const Place& place);

 private:
  struct Barrier {
    int expected = 0, arrived = 0;
    std::vector<uint32_t> arrived_lanes;  // a bit mask for each warp
    std::vector<Place> warp_place;        // where each warp arrived
    std::vector<Thread*> waiting;
  };
  void check_arrival(Barrier& barrier, int id, int expected, const char* operation,
                     const Place& place);
  void complete(Barrier& barrier, int id, const char* operation, const Place& place);

  int warps_;
  std::array<Barrier, 16> barriers_;
};

// bar.sync (which waits) or bar.arrive on barrier `id` of the running block.
void barrier_sync(int id, int threads, const Place& place);
void barrier_arrive(int id, int threads, const Place& place);
// __syncthreads.
void block_sync(const Place& place);

}  // namespace paro::emulator
