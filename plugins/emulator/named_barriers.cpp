#include "emulator/named_barriers.h"

#include "emulator/block.h"

namespace paro::emulator {

void NamedBarriers::reset() {
  for (Barrier& barrier : barriers_) {
    barrier.expected = barrier.arrived = 0;
    barrier.arrived_lanes.assign(static_cast<size_t>(warps_), 0);
    barrier.warp_place.resize(static_cast<size_t>(warps_));
    barrier.waiting.clear();
  }
}

void NamedBarriers::check_arrival(Barrier& barrier, int id, int expected, const char* operation,
                                  const Place& place) {
  const Thread& thread = current_thread();
  const auto warp = static_cast<size_t>(thread.warp);
  if (barrier.arrived > 0 && barrier.expected != expected) {
    fail(Fault::barrier, operation, place,
         "barrier %d is expecting %d threads, this arrival has %d", id, barrier.expected,
         expected);
  }
  if (barrier.arrived_lanes[warp] >> thread.lane & 1u) {
    fail(Fault::barrier, operation, place,
         "this thread arrives at barrier %d twice in one phase (%d of %d threads so far): too "
         "many arrivals, or another warp misses one",
         id, barrier.arrived, expected);
  }
  if (barrier.arrived_lanes[warp] != 0 && !same_place(barrier.warp_place[warp], place)) {
    fail(Fault::divergence, operation, place,
         "barrier %d is .aligned, but other lanes of the warp arrived at line %u", id,
         barrier.warp_place[warp].line());
  }
  barrier.warp_place[warp] = place;
  barrier.arrived_lanes[warp] |= 1u << thread.lane;
}

void NamedBarriers::arrive(int id, int expected, bool wait, const char* operation,
                           const Place& place) {
  if (id < 0 || id > 15) fail(Fault::barrier, operation, place, "no barrier has the id %d", id);
  if (expected <= 0 || expected % 32 != 0 || expected > 32 * warps_) {
    fail(Fault::barrier, operation, place,
         "%d threads: a positive multiple of 32 up to the block's %d is required", expected,
         32 * warps_);
  }
  Barrier& barrier = barriers_[static_cast<size_t>(id)];
  check_arrival(barrier, id, expected, operation, place);
  barrier.expected = expected;
  if (++barrier.arrived == expected) {
    complete(barrier, id, operation, place);
    return current_block().preempt();
  }
  if (!wait) return current_block().preempt();
  barrier.waiting.push_back(&current_thread());
  current_block().wait({operation, "barrier %u of %u threads", static_cast<unsigned>(id),
                        static_cast<unsigned>(expected), place});
}

void NamedBarriers::complete(Barrier& barrier, int id, const char* operation, const Place& place) {
  for (uint32_t& lanes : barrier.arrived_lanes) {
    if (lanes != 0 && lanes != ~0u) {
      fail(Fault::divergence, operation, place,
           "barrier %d completes with part of warp %td (lanes %08x)", id,
           &lanes - barrier.arrived_lanes.data(), lanes);
    }
    lanes = 0;
  }
  barrier.arrived = 0;
  for (Thread* thread : barrier.waiting) current_block().wake(*thread);
  barrier.waiting.clear();
}

void barrier_sync(int id, int threads, const Place& place) {
  current_block().barriers.arrive(id, threads, true, "bar.sync", place);
}

void barrier_arrive(int id, int threads, const Place& place) {
  current_block().barriers.arrive(id, threads, false, "bar.arrive", place);
}

void block_sync(const Place& place) {
  Block& block = current_block();
  const int threads = static_cast<int>(block.threads.size());
  block.barriers.arrive(0, threads, true, "__syncthreads", place);
}

}  // namespace paro::emulator
