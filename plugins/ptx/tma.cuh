// TMA: 2-D boxes and plain bytes between global and shared memory, issued by one thread (sm_90 and
// later). PTX ISA, "cp.async.bulk", "cp.async.bulk.tensor", "cp.async.bulk.commit_group", "fence.proxy.async".
#pragma once

#include "ptx/platform.cuh"
#include "ptx/tensor_map.h"

#if PARO_HAS_TMA

namespace paro::ptx {

#if PARO_EMULATED
namespace detail {
inline emulator::TensorMap2D content(const TensorMap& map) {
  emulator::TensorMap2D result;
  std::memcpy(&result, &map, sizeof result);
  return result;
}
}  // namespace detail
#endif

// Loads the box whose first element is (x, y) to `destination` (128-byte aligned) and adds the
// box's bytes, those out of bounds included, to what has landed on `barrier`.
PTX_FN void tma_load_2d(uint32_t destination, const TensorMap& map, int32_t x, int32_t y,
                        uint32_t barrier, Place place = Place::current()) {
#if PARO_EMULATED
  emulator::tensor_load(destination, detail::content(map), x, y, barrier, place);
#else
  (void)place;
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];" ::"r"(destination),
      "l"(&map), "r"(barrier), "r"(x), "r"(y)
      : "memory");
#endif
}

// Copies `bytes` bytes to `destination` and adds them to what has landed on `barrier`. All three are
// multiples of 16.
PTX_FN void bulk_load(uint32_t destination, const void* source, uint32_t bytes, uint32_t barrier,
                      Place place = Place::current()) {
#if PARO_EMULATED
  emulator::bulk_load(destination, source, bytes, barrier, place);
#else
  (void)place;
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          destination),
      "l"(source), "r"(bytes), "r"(barrier)
      : "memory");
#endif
}

// Stores a box from shared memory. fence_proxy_async must lie between the threads' writes and
// this, and a barrier where other threads wrote.
PTX_FN void tma_store_2d(const TensorMap& map, int32_t x, int32_t y, uint32_t source,
                         Place place = Place::current()) {
#if PARO_EMULATED
  emulator::tensor_store(detail::content(map), x, y, source, place);
#else
  (void)place;
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
      "r"(source), "r"(x), "r"(y)
      : "memory");
#endif
}

PTX_FN void tma_store_commit() {
#if PARO_EMULATED
  emulator::commit_bulk_stores();
#else
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}

// Until at most AllowedGroups of the thread's store groups still read shared memory.
template <int AllowedGroups>
PTX_FN void tma_store_wait_read() {
#if PARO_EMULATED
  emulator::wait_bulk_stores(AllowedGroups);
#else
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(AllowedGroups) : "memory");
#endif
}

// Until at most AllowedGroups of the thread's store groups are unfinished.
template <int AllowedGroups>
PTX_FN void tma_store_wait() {
#if PARO_EMULATED
  emulator::wait_bulk_stores(AllowedGroups);
#else
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(AllowedGroups) : "memory");
#endif
}

// Orders the thread's shared-memory accesses before later asynchronous ones (TMA, wgmma). The
// emulator cannot show that one is missing, except after mbarrier_init.
PTX_FN void fence_proxy_async() {
#if PARO_EMULATED
  emulator::mbarrier_fence();
#else
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// prefetch.tensormap: only a hint.
PTX_FN void prefetch_tensor_map(const TensorMap& map) {
#if PARO_EMULATED
  (void)map;
#else
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#endif
}

}  // namespace paro::ptx

#endif  // PARO_HAS_TMA
