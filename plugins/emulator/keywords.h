// CUDA's declaration keywords and built-in variables, for kernel sources that a C++ compiler
// compiles.
#pragma once

#include "emulator/block.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
// Static shared memory has no address in the emulated window, so kernels use DYN_SMEM.
#define __shared__ static_assert(false, "use DYN_SMEM instead of __shared__");

#define threadIdx (::paro::emulator::current_thread().index)
#define blockIdx (::paro::emulator::current_block().index)
#define blockDim (::paro::emulator::current_block().shape.block)
#define gridDim (::paro::emulator::current_block().shape.grid)

#define DYN_SMEM(name) uint8_t* const name = ::paro::emulator::current_block().shared.base()

constexpr int warpSize = 32;
