#include "emulator/collectives.h"

#include <cstring>

#include "emulator/block.h"

namespace paro::emulator {
namespace {

// Diagnoses lanes of one mask in different operations, or at different places of an aligned one.
void check_agreement(Operation waiting, const Place& waiting_place, Operation arriving,
                     const Place& place) {
  const bool same = std::strcmp(waiting.name, arriving.name) == 0;
  if (same && (!arriving.aligned || same_place(waiting_place, place))) return;
  fail(Fault::divergence, arriving.name, place,
       "other threads of the same collective are in %s at line %u", waiting.name,
       waiting_place.line());
}

WarpRendezvous& find_rendezvous(Warp& warp, uint32_t mask, Operation operation,
                                const Place& place) {
  WarpRendezvous* free = nullptr;
  for (WarpRendezvous& candidate : warp.rendezvous) {
    if (candidate.arrived != 0 && candidate.mask == mask) {
      check_agreement(candidate.operation, candidate.place, operation, place);
      return candidate;
    }
    if (candidate.arrived == 0 && free == nullptr) free = &candidate;
  }
  if (free == nullptr) {
    fail(Fault::divergence, operation.name, place, "too many overlapping masks wait in this warp");
  }
  free->mask = mask;
  free->operation = operation;
  free->place = place;
  return *free;
}

}  // namespace

bool same_place(const Place& one, const Place& other) {
  if (one.line() != other.line() || one.column() != other.column()) return false;
  return one.file_name() == other.file_name() ||
         std::strcmp(one.file_name(), other.file_name()) == 0;
}

bool arrive_in_warp(uint32_t mask, Operation operation, const Place& place, void* operand,
                    WarpRendezvous*& rendezvous) {
  const Thread& thread = current_thread();
  const auto lane = static_cast<unsigned>(thread.lane);
  if (!(mask >> lane & 1u)) {
    fail(Fault::divergence, operation.name, place, "the thread is not in its own mask %08x", mask);
  }
  Warp& warp = current_block().warps[static_cast<size_t>(thread.warp)];
  rendezvous = &find_rendezvous(warp, mask, operation, place);
  rendezvous->operand[lane] = operand;
  rendezvous->arrived |= 1u << lane;
  if (rendezvous->arrived == mask) return true;
  current_block().wait({operation.name, "mask %08x", mask, 0, place});
  return false;
}

void release_warp(WarpRendezvous& rendezvous) {
  Block& block = current_block();
  const Thread& last = current_thread();
  for (int lane = 0; lane < 32; lane++) {
    if ((rendezvous.mask >> lane & 1u) && lane != last.lane) {
      block.wake(block.threads[static_cast<size_t>(last.warp * 32 + lane)]);
    }
  }
  rendezvous.arrived = 0;
}

WarpgroupRendezvous& current_warpgroup() {
  return current_block().warpgroups[static_cast<size_t>(current_thread().linear / 128)].rendezvous;
}

bool arrive_in_warpgroup(Operation operation, const Place& place, void* operand) {
  Block& block = current_block();
  const auto linear = static_cast<size_t>(current_thread().linear);
  if ((linear / 128 + 1) * 128 > block.threads.size()) {
    fail(Fault::divergence, operation.name, place,
         "the block's last warpgroup is not complete (%zu threads)", block.threads.size());
  }
  WarpgroupRendezvous& rendezvous = current_warpgroup();
  if (rendezvous.arrived > 0) {
    check_agreement(rendezvous.operation, rendezvous.place, operation, place);
  }
  rendezvous.operation = operation;
  rendezvous.place = place;
  rendezvous.operand[linear % 128] = operand;
  if (++rendezvous.arrived == 128) return true;
  block.wait({operation.name, "warpgroup of 128 threads", 0, 0, place});
  return false;
}

void release_warpgroup() {
  Block& block = current_block();
  const int first = current_thread().linear / 128 * 128;
  for (int linear = first; linear < first + 128; linear++) {
    if (linear != current_thread().linear) block.wake(block.threads[static_cast<size_t>(linear)]);
  }
  current_warpgroup().arrived = 0;
}

}  // namespace paro::emulator
