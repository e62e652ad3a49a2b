// The kernels of this folder. One generated translation unit includes this file.
#pragma once

#include "kernels/routing/estimate.cuh"
#include "kernels/routing/launch.h"
#include "kernels/routing/run_means.cuh"
#include "kernels/routing/select.cuh"
#include "kernels/summaries/launch.h"

namespace paro::kernels::routing {
namespace {

struct Kernels {
  void (*means)(RoutingParams);
  size_t means_bytes;  // of shared memory
  void (*estimate)(RoutingParams);
};

template <bool IsBfloat16, int D, int BlockK>
Kernels kernels_of() {
  return {make_run_means<IsBfloat16, D, BlockK>, sizeof(RunMemory<D, BlockK>),
          estimate_errors<IsBfloat16, D, BlockK / routing_run>};
}

template <bool IsBfloat16>
Kernels kernels_of(int head_dim, int block_k) {
  if (head_dim == 64) {
    return block_k == 64 ? kernels_of<IsBfloat16, 64, 64>() : kernels_of<IsBfloat16, 64, 128>();
  }
  return block_k == 64 ? kernels_of<IsBfloat16, 128, 64>() : kernels_of<IsBfloat16, 128, 128>();
}

Kernels find_kernels(Number source, int head_dim, int block_k) {
  return source == Number::bf16 ? kernels_of<true>(head_dim, block_k)
                                : kernels_of<false>(head_dim, block_k);
}

}  // namespace

LaunchStatus load_stage(Number source, int head_dim, int block_k) {
  const Kernels kernels = find_kernels(source, head_dim, block_k);
  for (const auto function : {kernels.means, kernels.estimate, &select_blocks}) {
    if (load_kernel(function) != LaunchStatus::ok) return LaunchStatus::failed;
  }
  return summaries::load_routing_queries(source, head_dim);
}

LaunchStatus launch_stage(const RoutingParams& p, Number source, int head_dim, Stream stream) {
  const Geometry& g = p.geometry;
  const Kernels kernels = find_kernels(source, head_dim, g.block_k);
  const auto heads = static_cast<unsigned>(g.units * (g.heads / g.kv_heads));
  const int rows = routing_query_runs(g.query_blocks, g.block_q);
  LaunchStatus status = summaries::launch_routing_queries(
      g, p.plan, p.query, p.means.query, rows, source, head_dim, stream);
  if (status != LaunchStatus::ok) return status;
  status = launch(kernels.means,
                  {.grid = dim3(static_cast<unsigned>(routing_blocks(g.key_blocks)),
                                static_cast<unsigned>(g.units), 2),
                   .block = dim3(summaries::threads),
                   .shared_bytes = kernels.means_bytes,
                   .stream = stream},
                  p);
  if (status != LaunchStatus::ok) return status;
  status = launch(kernels.estimate,
                  {.grid = dim3(static_cast<unsigned>(rows / block_runs), heads),
                   .block = dim3(threads),
                   .stream = stream},
                  p);
  if (status != LaunchStatus::ok) return status;
  return launch(select_blocks,
                {.grid = dim3(static_cast<unsigned>((g.query_blocks + warps - 1) / warps), heads),
                 .block = dim3(threads),
                 .stream = stream},
                p);
}

}  // namespace paro::kernels::routing
