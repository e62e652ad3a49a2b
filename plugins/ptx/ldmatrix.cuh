// ldmatrix: 8x8 matrices of 16-bit elements from shared memory into mma fragments.
// PTX ISA, "Warp-level matrix load instruction: ldmatrix".
//
// Lanes 8 m to 8 m + 7 give the 16-byte aligned addresses of matrix m's rows. Thread t receives in
// register m elements (t / 4, 2 (t % 4)) and (t / 4, 2 (t % 4) + 1); with _trans those of the
// transpose. For 8-bit data a "row" is 16 bytes, 4 consecutive ones a register.
#pragma once

#include "ptx/platform.cuh"

namespace paro::ptx {

PTX_FN void ldmatrix_x4(uint32_t (&r)[4], uint32_t address, Place place = Place::current()) {
#if PARO_EMULATED
  emulator::load_matrices(r, false, address, place);
#else
  (void)place;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
#endif
}

PTX_FN void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t address, Place place = Place::current()) {
#if PARO_EMULATED
  emulator::load_matrices(r, true, address, place);
#else
  (void)place;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
#endif
}

}  // namespace paro::ptx
