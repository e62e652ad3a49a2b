// The kernels of this folder. One generated translation unit includes this file.
#pragma once

#include "kernels/smoothing/key_biases.cuh"
#include "kernels/smoothing/launch.h"
#include "kernels/smoothing/mean_queries.cuh"

namespace paro::kernels::smoothing {
namespace {

using Function = void (*)(SmoothingParams);

struct Kernels {
  Function means;
  size_t means_bytes;  // of shared memory
  Function biases;
};

template <bool IsBfloat16, int D>
Kernels kernels_of(int block_q, int block_k) {
  const Function biases =
      block_k == 64 ? key_biases<IsBfloat16, D, 64> : key_biases<IsBfloat16, D, 128>;
  if (block_q == 64) {
    return {mean_queries<IsBfloat16, D, 64>, sizeof(MeanMemory<D, 64>), biases};
  }
  return {mean_queries<IsBfloat16, D, 128>, sizeof(MeanMemory<D, 128>), biases};
}

Kernels find_kernels(Number source, int head_dim, int block_q, int block_k) {
  if (source == Number::bf16) {
    return head_dim == 64 ? kernels_of<true, 64>(block_q, block_k)
                          : kernels_of<true, 128>(block_q, block_k);
  }
  return head_dim == 64 ? kernels_of<false, 64>(block_q, block_k)
                        : kernels_of<false, 128>(block_q, block_k);
}

}  // namespace

LaunchStatus load_stage(Number source, int head_dim, int block_q, int block_k) {
  const Kernels kernels = find_kernels(source, head_dim, block_q, block_k);
  const LaunchStatus means = load_kernel(kernels.means);
  return means != LaunchStatus::ok ? means : load_kernel(kernels.biases);
}

LaunchStatus launch_stage(const SmoothingParams& p, Number source, int head_dim, Stream stream) {
  const Geometry& g = p.geometry;
  const Kernels kernels = find_kernels(source, head_dim, g.block_q, g.block_k);
  const auto heads = static_cast<unsigned>(g.units * (g.heads / g.kv_heads));
  const int runs = (g.tokens + query_positions - 1) / query_positions;
  const LaunchStatus means = launch(kernels.means,
                                    {.grid = dim3(static_cast<unsigned>(runs), heads),
                                     .block = dim3(summaries::threads),
                                     .shared_bytes = kernels.means_bytes,
                                     .stream = stream},
                                    p);
  if (means != LaunchStatus::ok) return means;
  return launch(kernels.biases,
                {.grid = dim3(static_cast<unsigned>(g.key_blocks), heads),
                 .block = dim3(bias_threads),
                 .stream = stream},
                p);
}

}  // namespace paro::kernels::smoothing
