// Launches stage 1. One generated translation unit includes this file with all kernels of the
// stage.
#pragma once

#include "kernels/reorder_quantize/kernel.cuh"
#include "kernels/reorder_quantize/launch.h"

namespace paro::kernels::reorder_quantize {

using Function = void (*)(ReorderParams);

// Devices that give the kernel more than 48 KB of shared memory, which 128 x 128 takes.
template <Function function>
inline DeviceSet allowed_devices;

struct Kernel {
  Function function;
  DeviceSet* allowed;
};

template <Function function>
constexpr Kernel kernel_of() {
  return {function, &allowed_devices<function>};
}

template <Number Source, int D, int BlockK, Number Key, Number Value>
Kernel tokens_kernel(bool pooled) {
  return pooled ? kernel_of<reorder_tokens<Source, D, BlockK, Key, Value, true>>()
                : kernel_of<reorder_tokens<Source, D, BlockK, Key, Value, false>>();
}

template <Number Source, int D, int BlockK, Number Key>
Kernel tokens_kernel(const Selection& s) {
  switch (s.value) {
    case Number::s8: return tokens_kernel<Source, D, BlockK, Key, Number::s8>(s.pooled);
    case Number::s4: return tokens_kernel<Source, D, BlockK, Key, Number::s4>(s.pooled);
    default: return tokens_kernel<Source, D, BlockK, Key, Source>(s.pooled);
  }
}

template <Number Source, int D, int BlockK>
Kernel tokens_kernel(const Selection& s) {
  switch (s.key) {
    case Number::s8: return tokens_kernel<Source, D, BlockK, Number::s8>(s);
    case Number::s4: return tokens_kernel<Source, D, BlockK, Number::s4>(s);
    default: return tokens_kernel<Source, D, BlockK, Source>(s);
  }
}

struct Stage {
  Kernel tokens;
  Kernel means;
  unsigned threads;
  size_t shared_bytes;
};

template <int D, int BlockK>
Stage sized_stage(const Selection& s) {
  return {.tokens = s.source == Number::bf16 ? tokens_kernel<Number::bf16, D, BlockK>(s)
                                             : tokens_kernel<Number::f16, D, BlockK>(s),
          .means = kernel_of<quantize_means<D, BlockK>>(),
          .threads = TileMap<D, BlockK>::threads,
          .shared_bytes = sizeof(SharedMemory<D, BlockK>)};
}

Stage find_stage(const Selection& s) {
  if (s.head_dim == 64) return s.block_k == 64 ? sized_stage<64, 64>(s) : sized_stage<64, 128>(s);
  return s.block_k == 64 ? sized_stage<128, 64>(s) : sized_stage<128, 128>(s);
}

LaunchStatus load(const Stage& stage, bool pooled) {
  const LaunchStatus tokens = allow_all_shared_bytes(stage.tokens.function, *stage.tokens.allowed);
  if (tokens != LaunchStatus::ok || !pooled) return tokens;
  return allow_all_shared_bytes(stage.means.function, *stage.means.allowed);
}

LaunchStatus load_stage(const Selection& selection) {
  return load(find_stage(selection), selection.pooled);
}

LaunchStatus launch_stage(const Selection& selection, const ReorderParams& p, Stream stream) {
  const Geometry& g = p.geometry;
  const Stage stage = find_stage(selection);
  const LaunchStatus loaded = load(stage, selection.pooled);
  if (loaded != LaunchStatus::ok) return loaded;
  const auto shape = [&](int blocks) {
    return LaunchShape{
        .grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(g.units), 2),
        .block = dim3(stage.threads),
        .shared_bytes = stage.shared_bytes,
        .stream = stream};
  };
  const int runs = (g.key_blocks + blocks_a_run - 1) / blocks_a_run;
  const LaunchStatus tokens = launch(stage.tokens.function, shape(runs), p);
  if (tokens != LaunchStatus::ok || !selection.pooled) return tokens;
  return launch(stage.means.function, shape(g.summary_blocks), p);
}

}  // namespace paro::kernels::reorder_quantize
