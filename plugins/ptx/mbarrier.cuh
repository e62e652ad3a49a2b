// mbarrier: barrier objects in shared memory that count arrivals and landed bytes.
// PTX ISA, "Parallel synchronization and communication instructions: mbarrier".
// An object is 8 bytes, 8-byte aligned. A phase completes when all arrivals and all announced
// bytes are in; its parity alternates, starting with 0.
#pragma once

#include "ptx/platform.cuh"

namespace paro::ptx {

// By one thread; others may use it after fence_mbarrier_init and a block barrier.
PTX_FN void mbarrier_init(uint32_t barrier, uint32_t arrivals, Place place = Place::current()) {
#if PARO_EMULATED
  emulator::mbarrier_init(barrier, arrivals, place);
#else
  (void)place;
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
#endif
}

PTX_FN void mbarrier_arrive(uint32_t barrier, Place place = Place::current()) {
#if PARO_EMULATED
  emulator::mbarrier_arrive(barrier, place);
#else
  (void)place;
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared::cta.b64 state, [%0];\n}" ::"r"(barrier)
               : "memory");
#endif
}

#if PARO_HAS_TMA

// mbarrier.arrive.expect_tx: announces bytes of this phase and arrives, in one step.
PTX_FN void mbarrier_arrive_expect(uint32_t barrier, uint32_t bytes,
                                   Place place = Place::current()) {
#if PARO_EMULATED
  emulator::mbarrier_expect_bytes(barrier, bytes, place);
  emulator::mbarrier_arrive(barrier, place);
#else
  (void)place;
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
#endif
}

// fence.mbarrier_init: makes initialisations visible to TMA; by the thread that did them.
PTX_FN void fence_mbarrier_init() {
#if PARO_EMULATED
  emulator::mbarrier_fence();
#else
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

#endif  // PARO_HAS_TMA

// Waits until the phase of this parity has completed. A wait for the parity of the phase before
// the first returns at once.
PTX_FN void mbarrier_wait(uint32_t barrier, uint32_t parity, Place place = Place::current()) {
#if PARO_EMULATED
  emulator::mbarrier_wait(barrier, parity, place);
#else
  (void)place;
#if __CUDA_ARCH__ >= 900
  // try_wait suspends the thread for a while; test_wait, all that sm_80 has, only looks.
#define PARO_MBARRIER_TEST "mbarrier.try_wait.parity.shared::cta.b64"
#else
#define PARO_MBARRIER_TEST "mbarrier.test_wait.parity.shared::cta.b64"
#endif
  asm volatile("{\n.reg .pred done;\nwait_%=:\n" PARO_MBARRIER_TEST
               " done, [%0], %1;\n"
               "@!done bra wait_%=;\n}" ::"r"(barrier),
               "r"(parity)
               : "memory");
#undef PARO_MBARRIER_TEST
#endif
}

}  // namespace paro::ptx
