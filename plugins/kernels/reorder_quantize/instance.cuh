// The kernels of stage 1 of one source type and head_dim. The generated translation units include
// this file and instantiate stage_of (instances.cmake).
#pragma once

#include "kernels/reorder_quantize/kernel.cuh"
#include "kernels/reorder_quantize/launch.h"

namespace paro::kernels::reorder_quantize {

// Blocks of 128 x 128 take more than 48 KB of shared memory.
template <void (*function)(ReorderParams)>
inline DeviceSet allowed_devices;

template <void (*function)(ReorderParams)>
constexpr Kernel kernel_of() {
  return {function, &allowed_devices<function>};
}

template <Number Source, int D, int BlockK, Number Key, Number Value>
Kernel tokens_kernel(bool pooled) {
  return pooled ? kernel_of<reorder_tokens<Source, D, BlockK, Key, Value, true>>()
                : kernel_of<reorder_tokens<Source, D, BlockK, Key, Value, false>>();
}

template <Number Source, int D, int BlockK, Number Key>
Kernel tokens_kernel(Number value, bool pooled) {
  switch (value) {
    case Number::s8: return tokens_kernel<Source, D, BlockK, Key, Number::s8>(pooled);
    case Number::s4: return tokens_kernel<Source, D, BlockK, Key, Number::s4>(pooled);
    default: return tokens_kernel<Source, D, BlockK, Key, Source>(pooled);
  }
}

template <Number Source, int D, int BlockK>
Kernel tokens_kernel(Number key, Number value, bool pooled) {
  switch (key) {
    case Number::s8: return tokens_kernel<Source, D, BlockK, Number::s8>(value, pooled);
    case Number::s4: return tokens_kernel<Source, D, BlockK, Number::s4>(value, pooled);
    default: return tokens_kernel<Source, D, BlockK, Source>(value, pooled);
  }
}

template <Number Source, int D, int BlockK>
Stage sized_stage(const Selection& s) {
  return {.tokens = tokens_kernel<Source, D, BlockK>(s.key, s.value, s.pooled),
          .means = kernel_of<quantize_means<D, BlockK>>(),
          .run_blocks = run_tokens / BlockK,
          .threads = TileMap<D, BlockK>::threads,
          .shared_bytes = sizeof(SharedMemory<D, BlockK>)};
}

template <Number Source, int D>
Stage stage_of(const Selection& s) {
  return s.block_k == 64 ? sized_stage<Source, D, 64>(s) : sized_stage<Source, D, 128>(s);
}

}  // namespace paro::kernels::reorder_quantize
