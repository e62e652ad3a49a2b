// cp.async: global to shared memory without registers (sm_80 and later).
// PTX ISA, "Data Movement and Conversion Instructions: Non-bulk copy".
#pragma once

#include "ptx/platform.cuh"

#if PARO_EMULATED
#include "emulator/async_copy.h"
#endif

namespace paro::ptx {

// cp.async.cg.shared.global [destination], [source], 16, source_bytes: bypasses L1. Both sides are
// 16-byte aligned. Where `valid` is false, writes zeros and reads nothing.
PTX_FN void cp_async_16(uint32_t destination, const void* source, bool valid = true,
                        Place place = Place::current()) {
  const uint32_t source_bytes = valid ? 16 : 0;
#if PARO_EMULATED
  emulator::async_copy(destination, source, 16, source_bytes, place);
#else
  (void)place;
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(destination),
               "l"(source), "r"(source_bytes)
               : "memory");
#endif
}

// As cp_async_16, with a policy of cache_policy.cuh.
PTX_FN void cp_async_16_with_policy(uint32_t destination, const void* source, bool valid,
                                    uint64_t policy, Place place = Place::current()) {
  const uint32_t source_bytes = valid ? 16 : 0;
#if PARO_EMULATED
  (void)policy;
  emulator::async_copy(destination, source, 16, source_bytes, place);
#else
  (void)place;
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(
                   destination),
               "l"(source), "r"(source_bytes), "l"(policy)
               : "memory");
#endif
}

// cp.async.ca.shared.global for 4 or 8 bytes, aligned to their size.
template <int Bytes>
PTX_FN void cp_async_small(uint32_t destination, const void* source, bool valid = true,
                           Place place = Place::current()) {
  static_assert(Bytes == 4 || Bytes == 8, "cp.async.ca copies 4 or 8 bytes; 16 is cp_async_16");
  const uint32_t source_bytes = valid ? Bytes : 0;
#if PARO_EMULATED
  emulator::async_copy(destination, source, Bytes, source_bytes, place);
#else
  (void)place;
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(destination), "l"(source),
               "n"(Bytes), "r"(source_bytes)
               : "memory");
#endif
}

// cp.async.commit_group: the thread's copies since the last commit form a group.
PTX_FN void cp_async_commit() {
#if PARO_EMULATED
  emulator::commit_async_copies();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// cp.async.wait_group: until at most AllowedGroups of the thread's newest groups are unfinished.
// Other threads see the data only after a barrier that follows.
template <int AllowedGroups>
PTX_FN void cp_async_wait() {
#if PARO_EMULATED
  emulator::wait_async_copies(AllowedGroups);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(AllowedGroups) : "memory");
#endif
}

// cp.async.wait_all: also copies that were never committed.
PTX_FN void cp_async_wait_all() {
#if PARO_EMULATED
  emulator::wait_all_async_copies();
#else
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

}  // namespace paro::ptx
