// Means of runs of query rows: rows of routing's estimate, in the inputs' type, or the queries that
// the mean correction attends with, in FP32.
//
// Grid: x 128 positions of the head's order, y head of the launch.
#pragma once

#include "kernels/summaries/gather.cuh"

namespace paro::kernels::summaries {

constexpr int query_positions = 128;  // of a thread block

// Query head `index` of the launch.
struct LaunchHead {
  Unit unit;
  int head;
};

DEVICE_FN LaunchHead head_at(const Geometry& g, int index) {
  const int group = g.heads / g.kv_heads;
  const Unit unit = unit_at(g, index / group);
  return {unit, unit.kv_head * group + index % group};
}

// `rows`: runs that the target has for each head. `rounded`: an FP32 mean is rounded to the inputs'
// type, as tokens are.
template <bool IsBfloat16, int D, int Run, class Target>
__global__ void __launch_bounds__(threads)
    mean_queries(const Geometry g, const Plan plan, const void* query, Target* target, int rows,
                 bool rounded) {
  DYN_SMEM(memory);
  auto& shared = *reinterpret_cast<RawRows<D, query_positions>*>(memory);
  const int index = static_cast<int>(blockIdx.y);
  const LaunchHead at = head_at(g, index);
  const int length = length_of(g, plan, at.unit.sample);
  const int first = static_cast<int>(blockIdx.x) * query_positions;
  gather_rows<D, query_positions>(g, query, g.heads, at.head, at.unit.sample,
                                  order_of(g, plan, at.head), first, length, shared);
  __syncthreads();  // sync: the rows are in shared memory
  for (int i = static_cast<int>(threadIdx.x); i < query_positions / Run * D; i += threads) {
    const int run = i / D, channel = i % D, row = first / Run + run;
    if (row >= rows) break;
    const float sum = halved_sum<Run>(
        [&](int r) { return float_from_16bit(shared.row[r][channel], IsBfloat16); }, run * Run);
    const float mean = mean_of(sum, tokens_of_run(length, first + run * Run, Run));
    const uint16_t bits = float_to_16bit(mean, IsBfloat16);
    Target& to = target[(static_cast<int64_t>(index) * rows + row) * D + channel];
    if constexpr (sizeof(Target) == 2) {
      to = bits;
    } else {
      to = rounded ? float_from_16bit(bits, IsBfloat16) : mean;
    }
  }
}

}  // namespace paro::kernels::summaries
