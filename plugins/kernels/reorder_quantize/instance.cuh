// Launches stage 1. One generated translation unit includes this file with all kernels of the
// stage.
#pragma once

#include "kernels/reorder_quantize/kernel.cuh"
#include "kernels/reorder_quantize/launch.h"

namespace paro::kernels::reorder_quantize {

struct Kernels {
  void (*tokens)(ReorderParams);
  void (*means)(ReorderParams);
  size_t shared_bytes;
};

template <int D, int BlockK>
Kernels sized_kernels(Number source) {
  return {.tokens = source == Number::bf16 ? reorder_tokens<Number::bf16, D, BlockK>
                                           : reorder_tokens<Number::f16, D, BlockK>,
          .means = quantize_means<D, BlockK>,
          .shared_bytes = sizeof(SharedMemory<D, BlockK>)};
}

Kernels find_kernels(Number source, int head_dim, int block_k) {
  if (head_dim == 64) {
    return block_k == 64 ? sized_kernels<64, 64>(source) : sized_kernels<64, 128>(source);
  }
  return block_k == 64 ? sized_kernels<128, 64>(source) : sized_kernels<128, 128>(source);
}

LaunchStatus load_stage(Number source, int head_dim, int block_k, bool pooled) {
  const Kernels kernels = find_kernels(source, head_dim, block_k);
  const LaunchStatus tokens = load_kernel(kernels.tokens);
  return tokens == LaunchStatus::ok && pooled ? load_kernel(kernels.means) : tokens;
}

LaunchStatus launch_stage(const ReorderParams& p, Number source, int head_dim, Stream stream) {
  const Geometry& g = p.geometry;
  const Kernels kernels = find_kernels(source, head_dim, g.block_k);
  const auto shape = [&](int blocks) {
    return LaunchShape{
        .grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(g.units), 2),
        .block = dim3(threads),
        .shared_bytes = kernels.shared_bytes,
        .stream = stream};
  };
  const LaunchStatus tokens = launch(kernels.tokens, shape(g.key_blocks), p);
  if (tokens != LaunchStatus::ok || !p.pooled) return tokens;
  return launch(kernels.means, shape(g.summary_blocks), p);
}

}  // namespace paro::kernels::reorder_quantize
