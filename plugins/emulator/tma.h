// TMA: bulk copies of 2-D boxes and of plain bytes between global and shared memory.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "emulator/diagnosis.h"
#include "emulator/swizzle.h"

namespace paro::emulator {

// What a CUtensorMap says, for two dimensions. Element counts and coordinates are in elements,
// dimension 0 is the contiguous one.
struct TensorMap2D {
  const void* data;
  uint64_t extent[2];      // elements
  uint64_t row_bytes;      // from one row to the next
  uint32_t box[2];         // elements
  uint32_t element_bytes;  // 1, 2 or 4
  Swizzle swizzle;
};

// Null where the driver would accept the map, else what it would refuse.
const char* tensor_map_error(const TensorMap2D& map);

// Loads that were issued and have not landed. Without `late` and `seed` loads land when issued.
class TransfersInFlight {
 public:
  struct Load {
    std::optional<TensorMap2D> map;  // of a box; none: plain bytes
    int32_t x, y;
    const void* source;  // of plain bytes
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

// One thread's stores that no wait has covered yet, oldest first.
struct BulkStores {
  struct Store {
    TensorMap2D map;
    int32_t x, y;
    uint32_t source;
    uint64_t group;
    Place place;
  };
  std::vector<Store> pending;
  uint64_t committed_groups = 0;
};

void tensor_load(uint32_t destination, const TensorMap2D& map, int32_t x, int32_t y,
                 uint32_t mbarrier, const Place& place);
// cp.async.bulk: `bytes` bytes as they are.
void bulk_load(uint32_t destination, const void* source, uint32_t bytes, uint32_t mbarrier,
               const Place& place);
void tensor_store(const TensorMap2D& map, int32_t x, int32_t y, uint32_t source,
                  const Place& place);
void commit_bulk_stores();
// cp.async.bulk.wait_group and its .read form, which both make the emulator finish the store.
void wait_bulk_stores(int allowed_groups);

}  // namespace paro::emulator
