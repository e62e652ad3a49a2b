// Named barriers and the register budget of a warpgroup.
// PTX ISA, "bar, barrier", "setmaxnreg".
#pragma once

#include "ptx/platform.cuh"

namespace paro::ptx {

// bar.sync id, threads: ids 1 to 15 (0 is __syncthreads); threads is a multiple of 32 and the same
// for all who arrive.
PTX_FN void named_barrier_sync(int id, int threads, Place place = Place::current()) {
#if PARO_EMULATED
  emulator::barrier_sync(id, threads, place);
#else
  (void)place;
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

// bar.arrive id, threads: counts without waiting.
PTX_FN void named_barrier_arrive(int id, int threads, Place place = Place::current()) {
#if PARO_EMULATED
  emulator::barrier_arrive(id, threads, place);
#else
  (void)place;
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

#if PARO_HAS_WGMMA

// setmaxnreg.inc/.dec: registers a thread, a multiple of 8 from 24 to 256, for a whole warpgroup.
// inc waits until other warpgroups have given enough back.
template <int Registers>
PTX_FN void registers_increase(Place place = Place::current()) {
#if PARO_EMULATED
  emulator::increase_registers(Registers, place);
#else
  (void)place;
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
#endif
}

template <int Registers>
PTX_FN void registers_decrease(Place place = Place::current()) {
#if PARO_EMULATED
  emulator::decrease_registers(Registers, place);
#else
  (void)place;
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
#endif
}

#endif  // PARO_HAS_WGMMA

}  // namespace paro::ptx
