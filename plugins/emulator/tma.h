// TMA: bulk copies of plain bytes from global to shared memory.
#pragma once

#include <cstdint>
#include <vector>

#include "emulator/diagnosis.h"

namespace paro::emulator {

// Loads that were issued and have not completed. Without `late` and `seed`, a load completes when
// it is issued.
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
  // Completes one load: the newest, or a random one with a seed. Returns false if there is none.
  bool land_one();

 private:
  std::vector<Load> loads_;
};

// cp.async.bulk: copies `bytes` bytes unchanged.
void bulk_load(uint32_t destination, const void* source, uint32_t bytes, uint32_t mbarrier,
               const Place& place);
}  // namespace paro::emulator
