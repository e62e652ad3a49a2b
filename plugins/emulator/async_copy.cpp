#include "emulator/async_copy.h"

#include <algorithm>
#include <cstring>

#include "emulator/block.h"

namespace paro::emulator {
namespace {

void land(const AsyncCopies::Copy& copy) {
  if (copy.source_bytes > 0) std::memcpy(copy.destination, copy.source, copy.source_bytes);
  std::memset(copy.destination + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
}

// Finishes all copies of groups below `first_unfinished`.
void finish_groups_below(uint64_t first_unfinished) {
  auto& pending = current_thread().copies.pending;
  const auto end = std::find_if(pending.begin(), pending.end(), [&](const AsyncCopies::Copy& copy) {
    return copy.group >= first_unfinished;
  });
  if (current_block().options.late) std::for_each(pending.begin(), end, land);
  pending.erase(pending.begin(), end);
}

}  // namespace

void async_copy(uint32_t destination, const void* source, uint32_t bytes, uint32_t source_bytes,
                const Place& place) {
  if (source_bytes > bytes) {
    fail(Fault::shared_memory, "cp.async", place, "source size %u exceeds copy size %u",
         source_bytes, bytes);
  }
  if (reinterpret_cast<uintptr_t>(source) % bytes != 0) {
    fail(Fault::global_alignment, "cp.async", place,
         "global address %p is misaligned: %u bytes are required", source, bytes);
  }
  uint8_t* target = shared_pointer(destination, bytes, bytes, "cp.async", place);
  current_block().stats.async_copies++;
  AsyncCopies& copies = current_thread().copies;
  copies.pending.push_back({target, source, bytes, source_bytes, copies.committed_groups});
  if (current_block().options.late) {
    std::memset(target, poison_byte, bytes);
  } else {
    land(copies.pending.back());
  }
}

void commit_async_copies() { current_thread().copies.committed_groups++; }

void wait_async_copies(int allowed_groups) {
  const uint64_t committed = current_thread().copies.committed_groups;
  const auto allowed = static_cast<uint64_t>(allowed_groups);
  if (committed > allowed) finish_groups_below(committed - allowed);
}

void wait_all_async_copies() { finish_groups_below(UINT64_MAX); }

}  // namespace paro::emulator
