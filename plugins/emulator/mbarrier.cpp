#include "emulator/mbarrier.h"

#include <cstring>

#include "emulator/block.h"

namespace paro::emulator {
namespace {

constexpr uint32_t largest_count = (1u << 20) - 1;

// The content of the object's eight bytes from init to inval. Kernels must not write to them.
uint64_t cookie(uint32_t address) { return 0x6D62'6172'7269'6572u ^ address; }

Mbarrier& find(uint32_t address, const char* operation, const Place& place) {
  const uint8_t* bytes = shared_pointer(address, 8, 8, operation, place);
  MbarrierTable& table = current_block().mbarriers;
  const auto found = table.find(address);
  const uint32_t offset = address - SharedMemory::window_base;
  if (found == table.end()) {
    fail(Fault::mbarrier, operation, place, "no mbarrier was initialised at shared offset %u",
         offset);
  }
  const uint64_t expected = cookie(address);
  if (std::memcmp(bytes, &expected, 8) != 0) {
    fail(Fault::mbarrier, operation, place, "the mbarrier at shared offset %u was overwritten",
         offset);
  }
  return found->second;
}

void complete_phase_if_done(Mbarrier& barrier) {
  if (barrier.pending != 0 || barrier.transaction_bytes != 0) return;
  barrier.parity = !barrier.parity;
  barrier.pending = barrier.expected;
  for (Thread* thread : barrier.waiting) current_block().wake(*thread);
  barrier.waiting.clear();
}

void check_transaction_range(const Mbarrier& barrier, const char* operation, const Place& place) {
  const int64_t limit = largest_count;
  if (barrier.transaction_bytes > limit || barrier.transaction_bytes < -limit) {
    fail(Fault::mbarrier, operation, place, "the transaction count leaves its range (%lld bytes)",
         static_cast<long long>(barrier.transaction_bytes));
  }
}

}  // namespace

void mbarrier_init(uint32_t address, uint32_t count, const Place& place) {
  uint8_t* bytes = shared_pointer(address, 8, 8, "mbarrier.init", place);
  if (count == 0 || count > largest_count) {
    fail(Fault::mbarrier, "mbarrier.init", place, "count %u is not within 1..%u", count,
         largest_count);
  }
  Mbarrier fresh;
  fresh.expected = fresh.pending = count;
  if (!current_block().mbarriers.emplace(address, std::move(fresh)).second) {
    fail(Fault::mbarrier, "mbarrier.init", place,
         "the mbarrier at shared offset %u is initialised already",
         address - SharedMemory::window_base);
  }
  const uint64_t content = cookie(address);
  std::memcpy(bytes, &content, 8);
}

void mbarrier_fence() {
  for (auto& [address, barrier] : current_block().mbarriers) barrier.fenced = true;
}

void mbarrier_arrive(uint32_t address, const Place& place) {
  Mbarrier& barrier = find(address, "mbarrier.arrive", place);
  if (barrier.pending == 0) {
    fail(Fault::mbarrier, "mbarrier.arrive", place,
         "too many arrivals: all %u of this phase have arrived (%lld bytes outstanding)",
         barrier.expected, static_cast<long long>(barrier.transaction_bytes));
  }
  barrier.pending--;
  complete_phase_if_done(barrier);
  current_block().preempt();
}

void mbarrier_expect_bytes(uint32_t address, uint32_t bytes, const Place& place) {
  Mbarrier& barrier = find(address, "mbarrier.expect_tx", place);
  barrier.transaction_bytes += bytes;
  check_transaction_range(barrier, "mbarrier.expect_tx", place);
}

bool mbarrier_test(uint32_t address, uint32_t parity, const Place& place) {
  return find(address, "mbarrier.try_wait", place).parity != ((parity & 1u) != 0);
}

void mbarrier_wait(uint32_t address, uint32_t parity, const Place& place) {
  while (!mbarrier_test(address, parity, place)) {
    current_block().mbarriers.at(address).waiting.push_back(&current_thread());
    current_block().wait({"mbarrier.try_wait", "mbarrier at shared offset %u, parity %u",
                          address - SharedMemory::window_base, parity & 1u, place});
  }
}

void mbarrier_check_for_bulk_copy(uint32_t address, const Place& place) {
  if (!find(address, "cp.async.bulk", place).fenced) {
    fail(Fault::mbarrier, "cp.async.bulk", place,
         "no fence.mbarrier_init or fence.proxy.async since the mbarrier at shared offset %u was "
         "initialised",
         address - SharedMemory::window_base);
  }
}

void mbarrier_complete_bytes(uint32_t address, uint32_t bytes, const Place& place) {
  Mbarrier& barrier = find(address, "mbarrier.complete_tx", place);
  barrier.transaction_bytes -= bytes;
  check_transaction_range(barrier, "mbarrier.complete_tx", place);
  complete_phase_if_done(barrier);
}

}  // namespace paro::emulator
