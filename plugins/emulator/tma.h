// TMA: bulk copies of plain bytes from global to shared memory.
#pragma once

#include <cstdint>
#include <vector>

#include "emulator/diagnosis.h"

namespace paro::emulator {

// Loads that were issued and have not landed. Without `late` and `seed` loads land when issued.
class TransfersInFlight {
 public:
  struct Load {
    const void* source;
    uint32_t bytes, destination, mbarrier;
    Place place;
  };
  void add(const Load& load) { loads_.push_back(load); }
  bool empty() const { return loads_.empty(); }
  void clear() { loads_.clear(); }
  // Lands one load (the newest, or a random one when seeded); false where there is none.
  bool land_one();

 private:
  std::vector<Load> loads_;
};

// cp.async.bulk: `bytes` bytes as they are.
void bulk_load(uint32_t destination, const void* source, uint32_t bytes, uint32_t mbarrier,
               const Place& place);
}  // namespace paro::emulator
