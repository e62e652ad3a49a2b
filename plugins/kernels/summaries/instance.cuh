// The kernels of this folder. One generated translation unit includes this file.
#pragma once

#include "kernels/summaries/fine_groups.cuh"
#include "kernels/summaries/launch.h"
#include "kernels/summaries/mean_queries.cuh"

namespace paro::kernels::summaries {
namespace {

struct FineKernel {
  void (*function)(FineParams);
  size_t shared_bytes;
};

template <bool IsBfloat16, int D>
FineKernel fine_kernel(int block_k) {
  if (block_k == 64) {
    return {make_fine_groups<IsBfloat16, D, 64>, sizeof(FineMemory<D, 64>)};
  }
  return {make_fine_groups<IsBfloat16, D, 128>, sizeof(FineMemory<D, 128>)};
}

FineKernel fine_kernel(Number source, int head_dim, int block_k) {
  if (source == Number::bf16) {
    return head_dim == 64 ? fine_kernel<true, 64>(block_k) : fine_kernel<true, 128>(block_k);
  }
  return head_dim == 64 ? fine_kernel<false, 64>(block_k) : fine_kernel<false, 128>(block_k);
}

template <class Target>
struct QueryKernel {
  void (*function)(Geometry, Plan, const void*, Target*, int, bool);
  size_t shared_bytes;
};

template <int Run, class Target, int D>
QueryKernel<Target> query_kernel(Number source) {
  return {source == Number::bf16 ? mean_queries<true, D, Run, Target>
                                 : mean_queries<false, D, Run, Target>,
          sizeof(RawRows<D, query_positions>)};
}

template <int Run, class Target>
QueryKernel<Target> query_kernel(Number source, int head_dim) {
  return head_dim == 64 ? query_kernel<Run, Target, 64>(source)
                        : query_kernel<Run, Target, 128>(source);
}

template <int Run, class Target>
LaunchStatus launch_queries(const Geometry& g, const Plan& plan, const void* query, Target* target,
                            int rows, bool rounded, Number source, int head_dim, Stream stream) {
  const auto kernel = query_kernel<Run, Target>(source, head_dim);
  const int blocks = (rows * Run + query_positions - 1) / query_positions;
  return launch(kernel.function,
                {.grid = dim3(static_cast<unsigned>(blocks),
                              static_cast<unsigned>(g.units * (g.heads / g.kv_heads))),
                 .block = dim3(threads),
                 .shared_bytes = kernel.shared_bytes,
                 .stream = stream},
                g, plan, query, target, rows, rounded);
}

}  // namespace

LaunchStatus launch_fine_groups(const FineParams& p, Number source, int head_dim, Stream stream) {
  const Geometry& g = p.geometry;
  const FineKernel kernel = fine_kernel(source, head_dim, g.block_k);
  return launch(kernel.function,
                {.grid = dim3(static_cast<unsigned>(g.key_blocks), static_cast<unsigned>(g.units), 2),
                 .block = dim3(threads),
                 .shared_bytes = kernel.shared_bytes,
                 .stream = stream},
                p);
}

LaunchStatus load_fine_groups(Number source, int head_dim, int block_k) {
  return load_kernel(fine_kernel(source, head_dim, block_k).function);
}

LaunchStatus launch_correction_queries(const Geometry& g, const Plan& plan, const void* query,
                                       float* target, bool rounded, Number source, int head_dim,
                                       Stream stream) {
  const int runs = (g.tokens + correction_rows - 1) / correction_rows;
  return launch_queries<correction_rows>(g, plan, query, target, runs, rounded, source, head_dim,
                                         stream);
}

LaunchStatus load_correction_queries(Number source, int head_dim) {
  return load_kernel(query_kernel<correction_rows, float>(source, head_dim).function);
}

LaunchStatus launch_routing_queries(const Geometry& g, const Plan& plan, const void* query,
                                    uint16_t* target, int rows, Number source, int head_dim,
                                    Stream stream) {
  return launch_queries<routing_run>(g, plan, query, target, rows, true, source, head_dim, stream);
}

LaunchStatus load_routing_queries(Number source, int head_dim) {
  return load_kernel(query_kernel<routing_run, uint16_t>(source, head_dim).function);
}

}  // namespace paro::kernels::summaries
