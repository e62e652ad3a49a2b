// What kernel sources include first: CUDA's headers, or the emulator's stubs for them.
// The build defines PARO_EMULATED=1 for the CPU; otherwise these sources need nvcc.
#pragma once

#include <cstdint>

#if !defined(PARO_EMULATED)
#define PARO_EMULATED 0
#endif

#if PARO_EMULATED

#include "emulator/cuda_emulator.h"

namespace paro {
// Where a wrapper was called, for diagnoses.
using Place = emulator::Place;
}  // namespace paro

#else

#if !defined(__CUDACC__)
#error "Kernel sources need nvcc, or PARO_EMULATED=1 and the emulator."
#endif
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

// 1024 bytes: the period of the 128-byte swizzle.
#define DYN_SMEM(name) extern __shared__ __align__(1024) uint8_t name[]

namespace paro {
struct Place {
  static constexpr __host__ __device__ Place current() { return {}; }
};
}  // namespace paro

#endif

// Every wrapper: one instruction, inlined into its kernel.
#define PTX_FN static __device__ __forceinline__

// Which wrappers exist. An unavailable one is not declared when compiling for that target, so that
// its use is a compile-time error. nvcc's host pass and the emulator see all of them.
// TMA, mbarrier transactions, elect.sync: sm_90 and later.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define PARO_HAS_TMA 1
#else
#define PARO_HAS_TMA 0
#endif
// wgmma and, in the targets built here, setmaxnreg: sm_90a.
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define PARO_HAS_WGMMA 1
#else
#define PARO_HAS_WGMMA 0
#endif

namespace paro::ptx {

// Address in the 32-bit shared window, as cp.async, ldmatrix, mbarrier, TMA and wgmma take it.
PTX_FN uint32_t shared_u32(const void* pointer, Place place = Place::current()) {
#if PARO_EMULATED
  return emulator::shared_address(pointer, place);
#else
  (void)place;
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
#endif
}

}  // namespace paro::ptx
