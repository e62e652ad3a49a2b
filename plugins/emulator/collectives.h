// Collective instructions of a warp or a warpgroup: the last thread to arrive does the work of all.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "emulator/diagnosis.h"

namespace paro::emulator {

// A collective instruction. `aligned` means that all threads must reach the same one in the source,
// which .aligned instructions require. Shuffles and votes only need the same operation.
struct Operation {
  const char* name;
  bool aligned;
};

struct WarpRendezvous {
  uint32_t mask = 0, arrived = 0;
  Operation operation{};
  Place place;
  std::array<void*, 32> operand{};
};

struct WarpgroupRendezvous {
  int arrived = 0;
  Operation operation{};
  Place place;
  std::array<void*, 128> operand{};
};

bool same_place(const Place& one, const Place& other);

// Returns true for the last thread of the mask, which then does the work and calls release_warp.
// Returns false for the others after that.
bool arrive_in_warp(uint32_t mask, Operation operation, const Place& place, void* operand,
                    WarpRendezvous*& rendezvous);
void release_warp(WarpRendezvous& rendezvous);

bool arrive_in_warpgroup(Operation operation, const Place& place, void* operand);
void release_warpgroup();
WarpgroupRendezvous& current_warpgroup();

// Calls body(operands) once all lanes of `mask` have arrived. operands[lane] is null for a lane
// that the mask does not contain.
template <class Operand, class Body>
void warp_collective(uint32_t mask, Operation operation, const Place& place, Operand& operand,
                     Body body) {
  WarpRendezvous* rendezvous = nullptr;
  if (!arrive_in_warp(mask, operation, place, &operand, rendezvous)) return;
  std::array<Operand*, 32> operands{};
  for (unsigned lane = 0; lane < 32; lane++) {
    if (mask >> lane & 1u) operands[lane] = static_cast<Operand*>(rendezvous->operand[lane]);
  }
  body(operands);
  release_warp(*rendezvous);
}

// Calls body(operands) once all 128 threads of the running thread's warpgroup have arrived.
template <class Operand, class Body>
void warpgroup_collective(Operation operation, const Place& place, Operand& operand, Body body) {
  if (!arrive_in_warpgroup(operation, place, &operand)) return;
  std::array<Operand*, 128> operands{};
  for (unsigned thread = 0; thread < 128; thread++) {
    operands[thread] = static_cast<Operand*>(current_warpgroup().operand[thread]);
  }
  body(operands);
  release_warpgroup();
}


}  // namespace paro::emulator
