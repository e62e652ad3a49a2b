// The mean query of each query block, which smoothing takes from its rows: equalized, rotated, and
// rounded to the inputs' type.
//
// Grid: x 128 positions of the head's order, y head of the launch.
#pragma once

#include "kernels/rotate.cuh"
#include "kernels/summaries/mean_queries.cuh"

namespace paro::kernels::smoothing {

using summaries::query_positions;

template <int D, int BlockQ>
struct MeanMemory {
  summaries::RawRows<D, query_positions> rows;
  alignas(16) float mean[query_positions / BlockQ][D];
};

// Within the finite range of the inputs' type: a mean of finite rows is finite.
DEVICE_FN float held_finite(float x, bool is_bfloat16) {
  const float largest = is_bfloat16 ? 0x1.FEp127f : 65504.0f;
  return x != x ? x : fminf(fmaxf(x, -largest), largest);
}

template <bool IsBfloat16, int D, int BlockQ>
__global__ void __launch_bounds__(summaries::threads) mean_queries(const SmoothingParams p) {
  constexpr int lanes = D / 8, blocks = query_positions / BlockQ;
  static_assert(blocks <= 32 / lanes, "a warp holds the rows of a thread block");
  DYN_SMEM(memory);
  auto& shared = *reinterpret_cast<MeanMemory<D, BlockQ>*>(memory);
  const Geometry& g = p.geometry;
  const int thread = static_cast<int>(threadIdx.x), index = static_cast<int>(blockIdx.y);
  const summaries::LaunchHead at = summaries::head_at(g, index);
  const int length = length_of(g, p.plan, at.unit.sample);
  const int first = static_cast<int>(blockIdx.x) * query_positions;
  summaries::gather_rows<D, query_positions>(g, p.query, g.heads, at.head, at.unit.sample,
                                             order_of(g, p.plan, at.head), first, length,
                                             shared.rows);
  __syncthreads();  // sync: the rows are in shared memory
  for (int i = thread; i < blocks * D; i += summaries::threads) {
    const int block = i / D, channel = i % D;
    const float sum = summaries::halved_sum<BlockQ>(
        [&](int r) {
          return summaries::float_from_16bit(shared.rows.row[r][channel], IsBfloat16);
        },
        block * BlockQ);
    shared.mean[block][channel] = summaries::mean_of(
        sum, summaries::tokens_of_run(length, first + block * BlockQ, BlockQ));
  }
  __syncthreads();  // sync: the means are written
  if (thread >= 32) return;
  const int block = thread / lanes, first_channel = thread % lanes * 8;
  const float* equalizer = affine_row(g, p.plan, PARO_EQUALIZER, at.unit.kv_head, D);
  Channels8 c;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    c.x[i] = __fmul_rn(shared.mean[min(block, blocks - 1)][first_channel + i],
                       __ldg(equalizer + first_channel + i));
  }
  rotate<D>(Rotation::of(p.plan, at.unit.kv_head, first_channel, D), c);
#pragma unroll
  for (float& x : c.x) x = held_finite(x, IsBfloat16);
  const int row = first / BlockQ + block;
  if (block >= blocks || row >= g.query_blocks) return;
  const int64_t target = (static_cast<int64_t>(index) * g.query_blocks + row) * D + first_channel;
  *reinterpret_cast<uint4*>(p.mean_query + target) = channels_to_16bit(c, IsBfloat16);
}

}  // namespace paro::kernels::smoothing
