#include "emulator/tma.h"

#include <algorithm>
#include <cstring>

#include "emulator/block.h"

namespace paro::emulator {
namespace {

uint32_t box_row_bytes(const TensorMap2D& map) { return map.box[0] * map.element_bytes; }
uint32_t box_bytes(const TensorMap2D& map) { return box_row_bytes(map) * map.box[1]; }

// The part of a box row that exists: [begin, end) in elements of the box.
struct Span {
  int64_t begin, end;
};

Span existing(const TensorMap2D& map, int64_t x, int64_t row) {
  if (row < 0 || row >= static_cast<int64_t>(map.extent[1])) return {0, 0};
  const int64_t begin = std::max<int64_t>(0, -x);
  const int64_t end = std::min<int64_t>(map.box[0], static_cast<int64_t>(map.extent[0]) - x);
  return {begin, std::max(begin, end)};
}

uint8_t* global_row(const TensorMap2D& map, int64_t x, int64_t row) {
  auto* data = static_cast<uint8_t*>(const_cast<void*>(map.data));
  return data + row * static_cast<int64_t>(map.row_bytes) + x * map.element_bytes;
}

void check_shared_side(const TensorMap2D& map, uint32_t address, const char* operation,
                       const Place& place) {
  if (const char* error = tensor_map_error(map)) {
    fail(Fault::tensor_copy, operation, place, "not a tensor map a driver makes: %s", error);
  }
  shared_pointer(address, box_bytes(map), 128, operation, place);
}

// Calls move(shared 16 bytes, offset in the row) for every chunk of box row `row`.
template <class Move>
void for_each_chunk(const TensorMap2D& map, uint32_t tile, uint32_t row, const Place& place,
                    Move move) {
  const uint32_t bytes = box_row_bytes(map);
  for (uint32_t chunk = 0; chunk < bytes; chunk += 16) {
    const uint32_t address = swizzled(tile + row * bytes + chunk, map.swizzle);
    move(shared_pointer(address, 16, 16, "cp.async.bulk.tensor", place), chunk);
  }
}

void land_box(const TransfersInFlight::Load& load) {
  const TensorMap2D& map = *load.map;
  for (uint32_t row = 0; row < map.box[1]; row++) {
    uint8_t bytes[1024] = {};
    const int64_t global = static_cast<int64_t>(load.y) + row;
    const Span span = existing(map, load.x, global);
    if (span.begin < span.end) {
      std::memcpy(bytes + span.begin * map.element_bytes,
                  global_row(map, load.x + span.begin, global),
                  static_cast<size_t>(span.end - span.begin) * map.element_bytes);
    }
    for_each_chunk(map, load.destination, row, load.place, [&](uint8_t* shared, uint32_t offset) {
      std::memcpy(shared, bytes + offset, 16);
    });
  }
}

void land(const TransfersInFlight::Load& load) {
  if (load.map) {
    land_box(load);
  } else {
    std::memcpy(shared_pointer(load.destination, load.bytes, 16, "cp.async.bulk", load.place),
                load.source, load.bytes);
  }
  mbarrier_complete_bytes(load.mbarrier, load.bytes, load.place);
}

// Lands now or later, as the mode says.
void issue(const TransfersInFlight::Load& load) {
  mbarrier_check_for_bulk_copy(load.mbarrier, load.place);
  Block& block = current_block();
  block.stats.tma_loads++;
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

void land(const BulkStores::Store& store) {
  const TensorMap2D& map = store.map;
  for (uint32_t row = 0; row < map.box[1]; row++) {
    uint8_t bytes[1024];
    for_each_chunk(map, store.source, row, store.place, [&](uint8_t* shared, uint32_t offset) {
      std::memcpy(bytes + offset, shared, 16);
    });
    const int64_t global = static_cast<int64_t>(store.y) + row;
    const Span span = existing(map, store.x, global);
    if (span.begin < span.end) {
      std::memcpy(global_row(map, store.x + span.begin, global),
                  bytes + span.begin * map.element_bytes,
                  static_cast<size_t>(span.end - span.begin) * map.element_bytes);
    }
  }
}

}  // namespace

const char* tensor_map_error(const TensorMap2D& map) {
  const uint32_t element = map.element_bytes, row = box_row_bytes(map);
  if (element != 1 && element != 2 && element != 4) return "element size is not 1, 2 or 4 bytes";
  if (map.data == nullptr) return "the global address is null";
  if (reinterpret_cast<uintptr_t>(map.data) % 16 != 0)
    return "the global address is not 16-byte aligned";
  if (map.row_bytes % 16 != 0) return "the row stride is not a multiple of 16 bytes";
  if (map.row_bytes >= uint64_t{1} << 40) return "the row stride is 2^40 bytes or more";
  for (uint64_t extent : map.extent) {
    if (extent == 0 || extent > uint64_t{1} << 32) return "an extent is not within 1..2^32";
  }
  for (uint32_t box : map.box) {
    if (box == 0 || box > 256) return "a box dimension is not within 1..256";
  }
  if (row % 16 != 0) return "the box row is not a multiple of 16 bytes";
  if (map.extent[0] * element > map.row_bytes) return "a row is longer than the row stride";
  if (map.swizzle != Swizzle::none && row != swizzle_row_bytes(map.swizzle)) {
    // The hardware also takes narrower rows; their layout in shared memory is not emulated.
    return "the box row must be as long as the swizzle pattern's";
  }
  return nullptr;
}

bool TransfersInFlight::land_one() {
  if (loads_.empty()) return false;
  Block& block = current_block();
  const size_t which = block.options.seed == 0 ? loads_.size() - 1 : block.random() % loads_.size();
  const Load load = loads_[which];
  loads_.erase(loads_.begin() + static_cast<ptrdiff_t>(which));
  land(load);
  return true;
}

void tensor_load(uint32_t destination, const TensorMap2D& map, int32_t x, int32_t y,
                 uint32_t mbarrier, const Place& place) {
  check_shared_side(map, destination, "cp.async.bulk.tensor load", place);
  issue({map, x, y, nullptr, box_bytes(map), destination, mbarrier, place});
}

void bulk_load(uint32_t destination, const void* source, uint32_t bytes, uint32_t mbarrier,
               const Place& place) {
  if (bytes == 0 || bytes % 16 != 0 || reinterpret_cast<uintptr_t>(source) % 16 != 0) {
    fail(Fault::tensor_copy, "cp.async.bulk", place,
         "%u bytes from %p: a positive multiple of 16 from an address aligned to 16 is required",
         bytes, source);
  }
  shared_pointer(destination, bytes, 16, "cp.async.bulk", place);
  issue({std::nullopt, 0, 0, source, bytes, destination, mbarrier, place});
}

void tensor_store(const TensorMap2D& map, int32_t x, int32_t y, uint32_t source,
                  const Place& place) {
  check_shared_side(map, source, "cp.async.bulk.tensor store", place);
  BulkStores& stores = current_thread().stores;
  current_block().stats.tma_stores++;
  stores.pending.push_back({map, x, y, source, stores.committed_groups, place});
  if (!current_block().options.late) land(stores.pending.back());
}

void commit_bulk_stores() { current_thread().stores.committed_groups++; }

void wait_bulk_stores(int allowed_groups) {
  BulkStores& stores = current_thread().stores;
  const auto allowed = static_cast<uint64_t>(allowed_groups);
  const uint64_t first_unfinished =
      stores.committed_groups > allowed ? stores.committed_groups - allowed : 0;
  while (!stores.pending.empty() && stores.pending.front().group < first_unfinished) {
    if (current_block().options.late) land(stores.pending.front());
    stores.pending.erase(stores.pending.begin());
  }
}

}  // namespace paro::emulator
