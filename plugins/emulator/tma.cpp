#include "emulator/tma.h"

#include <cstring>

#include "emulator/block.h"

namespace paro::emulator {
namespace {

void land(const TransfersInFlight::Load& load) {
  std::memcpy(shared_pointer(load.destination, load.bytes, 16, "cp.async.bulk", load.place),
              load.source, load.bytes);
  mbarrier_complete_bytes(load.mbarrier, load.bytes, load.place);
}

// Completes the load now or later, depending on the mode.
void issue(const TransfersInFlight::Load& load) {
  mbarrier_check_for_bulk_copy(load.mbarrier, load.place);
  Block& block = current_block();
  block.stats.bulk_loads++;
  if (block.options.late) {
    std::memset(shared_pointer(load.destination, load.bytes, 16, "cp.async.bulk", load.place),
                poison_byte, load.bytes);
    block.transfers.add(load);
  } else if (block.options.seed != 0 && block.random() % 2 == 0) {
    block.transfers.add(load);
  } else {
    land(load);
  }
}

}  // namespace

bool TransfersInFlight::land_one() {
  if (loads_.empty()) return false;
  Block& block = current_block();
  const size_t which = block.options.seed == 0 ? loads_.size() - 1 : block.random() % loads_.size();
  const Load load = loads_[which];
  loads_.erase(loads_.begin() + static_cast<ptrdiff_t>(which));
  land(load);
  return true;
}

void bulk_load(uint32_t destination, const void* source, uint32_t bytes, uint32_t mbarrier,
               const Place& place) {
  if (bytes == 0 || bytes % 16 != 0 || reinterpret_cast<uintptr_t>(source) % 16 != 0) {
    fail(Fault::tensor_copy, "cp.async.bulk", place,
         "%u bytes from %p: a positive multiple of 16 from an address aligned to 16 is required",
         bytes, source);
  }
  shared_pointer(destination, bytes, 16, "cp.async.bulk", place);
  issue({.source = source,
         .bytes = bytes,
         .destination = destination,
         .mbarrier = mbarrier,
         .place = place});
}

}  // namespace paro::emulator
