// cp.async: copies from global to shared memory, which complete in groups of the issuing thread.
#pragma once

#include <cstdint>
#include <vector>

#include "emulator/diagnosis.h"

namespace paro::emulator {

// One thread's copies that no wait has covered yet, oldest first.
struct AsyncCopies {
  struct Copy {
    uint8_t* destination;
    const void* source;
    uint32_t bytes, source_bytes;
    uint64_t group;
  };
  std::vector<Copy> pending;
  uint64_t committed_groups = 0;
};

// Copies source_bytes bytes, and fills with zeros up to `bytes` (4, 8 or 16).
void async_copy(uint32_t destination, const void* source, uint32_t bytes, uint32_t source_bytes,
                const Place& place);
void commit_async_copies();
// Waits until at most `allowed_groups` committed groups are unfinished.
void wait_async_copies(int allowed_groups);
// Waits for all copies, committed or not.
void wait_all_async_copies();

}  // namespace paro::emulator
