// The kernels of stage 1 of one source type and head_dim. The generated translation units include
// this file and instantiate stage_of (instances.cmake).
#pragma once

#include "kernels/reorder_quantize/kernel.cuh"
#include "kernels/reorder_quantize/launch.h"
#include "kernels/reorder_quantize/smoothed.cuh"

namespace paro::kernels::reorder_quantize {

// Blocks of 128 x 128 take more than 48 KB of shared memory.
template <void (*function)(ReorderParams)>
inline DeviceSet allowed_devices;

template <void (*function)(ReorderParams)>
constexpr Kernel kernel_of() {
  return {function, &allowed_devices<function>};
}

template <Number Source, int D, int BlockK>
Stage sized_stage(bool pooled, bool smoothed) {
  if (smoothed) {
    return {.tokens = pooled ? kernel_of<smooth_tokens<Source, D, BlockK, true>>()
                             : kernel_of<smooth_tokens<Source, D, BlockK, false>>(),
            .means = kernel_of<quantize_smoothed_means<D, BlockK>>(),
            .run_blocks = run_tokens / BlockK,
            .threads = TileMap<D, BlockK>::threads,
            .shared_bytes = sizeof(SmoothedMemory<D, BlockK>)};
  }
  return {.tokens = pooled ? kernel_of<reorder_tokens<Source, D, BlockK, true>>()
                           : kernel_of<reorder_tokens<Source, D, BlockK, false>>(),
          .means = kernel_of<quantize_means<D, BlockK>>(),
          .run_blocks = run_tokens / BlockK,
          .threads = TileMap<D, BlockK>::threads,
          .shared_bytes = sizeof(SharedMemory<D, BlockK>)};
}

template <Number Source, int D>
Stage stage_of(const Selection& s) {
  return s.block_k == 64 ? sized_stage<Source, D, 64>(s.pooled, s.smoothed)
                         : sized_stage<Source, D, 128>(s.pooled, s.smoothed);
}

}  // namespace paro::kernels::reorder_quantize
