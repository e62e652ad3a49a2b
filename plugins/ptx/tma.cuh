// TMA: bulk copies of plain bytes from global to shared memory, issued by one thread (sm_90 and
// later). PTX ISA, "cp.async.bulk", "fence.proxy.async".
#pragma once

#include "ptx/platform.cuh"

#if PARO_HAS_TMA

namespace paro::ptx {

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

// Orders the thread's shared-memory accesses before later asynchronous ones (TMA, wgmma). The
// emulator cannot show that one is missing, except after mbarrier_init.
PTX_FN void fence_proxy_async() {
#if PARO_EMULATED
  emulator::mbarrier_fence();
#else
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

}  // namespace paro::ptx

#endif  // PARO_HAS_TMA
