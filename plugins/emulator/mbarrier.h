// mbarrier objects: arrival counts and transaction bytes. The state is kept outside of shared
// memory, so that an overwritten or uninitialised object is recognised.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "emulator/diagnosis.h"

namespace paro::emulator {

struct Mbarrier {
  uint32_t expected = 0, pending = 0;
  // Bytes announced by expect_tx minus bytes that arrived. A copy may arrive before it is
  // announced.
  int64_t transaction_bytes = 0;
  bool parity = false;
  // A fence has made the initialisation visible to the asynchronous proxy.
  bool fenced = false;
  std::vector<Thread*> waiting;
};

using MbarrierTable = std::map<uint32_t, Mbarrier>;

void mbarrier_init(uint32_t address, uint32_t count, const Place& place);
// fence.mbarrier_init or fence.proxy.async.
void mbarrier_fence();
void mbarrier_arrive(uint32_t address, const Place& place);
void mbarrier_expect_bytes(uint32_t address, uint32_t bytes, const Place& place);
// Whether the phase with this parity has completed.
bool mbarrier_test(uint32_t address, uint32_t parity, const Place& place);
// Suspends the thread until that phase has completed.
void mbarrier_wait(uint32_t address, uint32_t parity, const Place& place);

// What a bulk copy does to the mbarrier when it is issued, and when its bytes arrive.
void mbarrier_check_for_bulk_copy(uint32_t address, const Place& place);
void mbarrier_complete_bytes(uint32_t address, uint32_t bytes, const Place& place);

}  // namespace paro::emulator
