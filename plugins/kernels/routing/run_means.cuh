// Keys and values of routing's estimate: means of runs of 16 tokens and of key blocks, as they
// come, rounded to the inputs' type; and the products of a block's values among themselves.
//
// Grid: x key block (rounded up to whole steps), y unit, z 0 for keys and 1 for values.
#pragma once

#include "kernels/routing/step.cuh"
#include "kernels/summaries/gather.cuh"

namespace paro::kernels::routing {

template <int D, int BlockK>
struct RunMemory {
  summaries::RawRows<D, BlockK> rows;
  uint16_t mean[BlockK / routing_run + 1][D];  // of the runs, then of the block
};

// gram[entry(i, j)] for i <= j: v_i . v_j, twice where i < j, over the runs and then the block.
template <bool IsBfloat16, int D, int Vectors>
DEVICE_FN void store_gram(const uint16_t (&mean)[Vectors][D], float* gram) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  int entry = 0;
  for (int i = 0; i < Vectors; i++) {
    for (int j = i; j < Vectors; j++, entry++) {
      if (entry % (summaries::threads / 32) != warp) continue;
      float sum = 0.0f;
      for (int channel = lane; channel < D; channel += 32) {
        sum = fmaf(summaries::float_from_16bit(mean[i][channel], IsBfloat16),
                   summaries::float_from_16bit(mean[j][channel], IsBfloat16), sum);
      }
#pragma unroll
      for (int distance = 16; distance > 0; distance /= 2) {
        sum += __shfl_xor_sync(~0u, sum, distance);
      }
      if (lane == 0) gram[entry] = i == j ? sum : 2.0f * sum;
    }
  }
}

template <bool IsBfloat16, int D, int BlockK>
__global__ void __launch_bounds__(summaries::threads) make_run_means(const RoutingParams p) {
  using namespace summaries;
  constexpr int runs = BlockK / routing_run;
  DYN_SMEM(memory);
  auto& shared = *reinterpret_cast<RunMemory<D, BlockK>*>(memory);
  const Geometry& g = p.geometry;
  const bool is_key = blockIdx.z == 0;
  const Unit unit = unit_at(g, static_cast<int>(blockIdx.y));
  const int block = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const int length = length_of(g, p.plan, unit.sample);
  gather_rows<D, BlockK>(g, is_key ? p.key : p.value, g.kv_heads, unit.kv_head, unit.sample,
                         order_of(g, p.plan, unit.kv_head * (g.heads / g.kv_heads)), block * BlockK,
                         length, shared.rows);
  __syncthreads();  // sync: the block's tokens are in shared memory
  for (int i = thread; i < (runs + 1) * D; i += threads) {
    const int run = i / D, channel = i % D;
    const auto token = [&](int row) {
      return float_from_16bit(shared.rows.row[row][channel], IsBfloat16);
    };
    const bool is_block = run == runs;
    const int first = is_block ? 0 : run * routing_run, size = is_block ? BlockK : routing_run;
    const float sum =
        is_block ? halved_sum<BlockK>(token, 0) : halved_sum<routing_run>(token, first);
    const float mean = mean_of(sum, tokens_of_run(length, block * BlockK + first, size));
    shared.mean[run][channel] = float_to_16bit(mean, IsBfloat16);
  }
  __syncthreads();  // sync: the means are written
  const RoutingMeans& m = p.means;
  const int64_t at = static_cast<int64_t>(unit.index) * routing_blocks(g.key_blocks) + block;
  uint16_t* rows = (is_key ? m.key : m.value) + at * runs * D;
  uint16_t* whole = (is_key ? m.block_key : m.block_value) + at * D;
  for (int i = thread; i < runs * D; i += threads) rows[i] = shared.mean[i / D][i % D];
  for (int i = thread; i < D; i += threads) whole[i] = shared.mean[runs][i];
  if (is_key) return;
  constexpr int tile_runs = step_blocks * runs;
  uint16_t* tile = m.transposed_value + at / step_blocks * D * tile_runs;
  for (int i = thread; i < runs * D; i += threads) {
    const int channel = i / runs, run = i % runs;
    tile[channel * tile_runs + block % step_blocks * runs + run] = shared.mean[run][channel];
  }
  store_gram<IsBfloat16, D>(shared.mean, m.gram + at * routing_products(runs));
}

}  // namespace paro::kernels::routing
