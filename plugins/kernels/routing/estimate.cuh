// Routing's estimate: what each key block would leave in a query block's output if it were not
// exact, computed between means of 16 tokens (paro_trt/op/routing.py).
//
// With w the attention weights, o the output and lse the logarithm of the sum of a query run, and c
// the weight of block J's summary, the error of (run, J) is |sum_s x_s v_s - X o|^2, where v_s are
// the block's R values with x_s = w_s, then its mean with x_R = -c, and X = sum x_s. It is expanded
// in products: sum x_s x_t (v_s . v_t) - 2 X sum x_s (v_s . o) + X^2 |o|^2. The first are made once
// for each block, the second are a matrix product.
//
// A warp takes 16 query runs and all key runs, twice: for lse and o, then for the errors. Operands
// come from global memory; the four warps of a thread block walk together, so that L1 has them.
// Factors that are not exact in 16 bits, P and o, are a sum of two that are.
//
// Grid: x 64 query runs, y head of the launch.
#pragma once

#include "kernels/device_plan.cuh"
#include "kernels/quantize.cuh"
#include "kernels/routing/step.cuh"
#include "kernels/sparse_attention/common/softmax.cuh"
#include "kernels/summaries/mean_queries.cuh"
#include "ptx/mma.cuh"

namespace paro::kernels::routing {

using sparse_attention::lowest_logit;
using sparse_attention::quad_maximum;

// A operand of products over all channels, rows g and g + 8 of 16. Lane i of a quad has channels
// 32 j + 8 i .. + 7: the sum over channels has no order, and a row is then read by 16 bytes.
template <int D>
using RowOperand = uint4[D / 32][2];

template <bool IsBfloat16>
PTX_FN void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (IsBfloat16) {
    ptx::mma_bf16(c, a, b);
  } else {
    ptx::mma_f16(c, a, b);
  }
}

// c += A B for 32 channels: 16 rows and the 8 columns of a fragment, `b` of the lane's column g.
template <bool IsBfloat16>
PTX_FN void multiply_channels(float (&c)[4], const uint4 (&a)[2], const uint4& b) {
  multiply<IsBfloat16>(c, {a[0].x, a[1].x, a[0].y, a[1].y}, {b.x, b.y});
  multiply<IsBfloat16>(c, {a[0].z, a[1].z, a[0].w, a[1].w}, {b.z, b.w});
}

// A pair of floats as a pair of 16-bit numbers and what these leave.
template <bool IsBfloat16>
PTX_FN void split_pair(float x, float y, uint32_t& high, uint32_t& low) {
  high = pair_from_floats(x, y, IsBfloat16);
  const float2 rounded = floats_from_pair(high, IsBfloat16);
  low = pair_from_floats(x - rounded.x, y - rounded.y, IsBfloat16);
}

// log2 of the tokens of a run or block that starts at `first`; lowest_logit where there is none.
DEVICE_FN float log2_tokens(int length, int first, int size) {
  const int count = summaries::tokens_of_run(length, first, size);
  return count == 0 ? lowest_logit : ptx::log2_approx(static_cast<float>(count));
}

constexpr float log2_run = 4.0f;
static_assert(routing_run == 1 << 4, "its logarithm");

// What one lane needs of the keys and values of its unit.
template <int D, int R>
struct Sources {
  const uint16_t *key, *value, *transposed_value, *block_key, *block_value;
  const float* gram;
  int length;
  int lane;

  DEVICE_FN Sources of(const RoutingParams& p, int unit, int length) {
    const int64_t first = static_cast<int64_t>(unit) * routing_blocks(p.geometry.key_blocks);
    const RoutingMeans& m = p.means;
    return {m.key + first * R * D, m.value + first * R * D, m.transposed_value + first * R * D,
            m.block_key + first * D, m.block_value + first * D,
            m.gram + first * routing_products(R), length, static_cast<int>(threadIdx.x % 32)};
  }

  // The lane's part of row `row`, channels 0, 1 .. of its first 32.
  __device__ __forceinline__ const uint16_t* part(const uint16_t* rows, int64_t row) const {
    return rows + row * D + lane % 4 * 8;
  }
  // The same of the run that column g of fragment 0 stands for; of fragment f it is 2 f rows later.
  __device__ __forceinline__ const uint16_t* run_part(const uint16_t* rows, int step) const {
    const int column = lane / 4;
    return part(rows, int64_t{step * step_blocks + column / 2} * R + column % 2);
  }
  // Steps whose blocks are all full.
  __device__ __forceinline__ int whole_steps() const {
    return length / (step_blocks * R * routing_run);
  }
  __device__ __forceinline__ int64_t block_row(int step) const {
    return step * step_blocks + lane / 8;
  }
  // The block whose runs the lane has.
  __device__ __forceinline__ int own_block(int step) const {
    return step * step_blocks + lane % 4;
  }
};

// Channels 32 j .. of a lane's part of a row, or of one `rows` after it.
template <int D>
DEVICE_FN uint4 chunk(const uint16_t* part, int rows, int j) {
  return __ldg(reinterpret_cast<const uint4*>(part + rows * D + j * 32));
}

// Base-2 logits of the lane's runs of a step, each plus log2 of its tokens: [run][row]. `Whole`: no
// run of the step is cut short. Products of one fragment wait for each other: fragments alternate.
template <bool IsBfloat16, bool Whole, int D, int R>
DEVICE_FN void run_logits(const Sources<D, R>& s, const RowOperand<D>& query, float logit_scale,
                          int step, float (&logit)[R][2]) {
  const uint16_t* keys = s.run_part(s.key, step);
  float c[R / 2][4] = {};
#pragma unroll
  for (int j = 0; j < D / 32; j++) {
#pragma unroll
    for (int f = 0; f < R / 2; f++) {
      multiply_channels<IsBfloat16>(c[f], query[j], chunk<D>(keys, 2 * f, j));
    }
  }
#pragma unroll
  for (int f = 0; f < R / 2; f++) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int run = 2 * f + i;
      const int first = (s.own_block(step) * R + run) * routing_run;
      const float weight = Whole ? log2_run : log2_tokens(s.length, first, routing_run);
#pragma unroll
      for (int row = 0; row < 2; row++) {
        // A run without a token has a row of zeros.
        logit[run][row] = fmaf(c[f][2 * row + i], logit_scale, weight);
      }
    }
  }
}

// Attention of 16 query runs between means: row index 0 is g, 1 is g + 8.
template <int D>
struct Estimate {
  float lse[2];                 // base 2
  float norm[2];                // |o|^2
  RowOperand<D> high, low;      // o
};

template <bool IsBfloat16, int D, int R>
DEVICE_FN void add_values(const Sources<D, R>& s, int step, const float (&p)[R][2],
                          float (&out)[D / 8][4]) {
  uint32_t high[R / 4][4], low[R / 4][4];
#pragma unroll
  for (int pair = 0; pair < R / 4; pair++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
      for (int row = 0; row < 2; row++) {
        const int run = pair * 4 + half * 2, to = half * 2 + row;
        split_pair<IsBfloat16>(p[run][row], p[run + 1][row], high[pair][to], low[pair][to]);
      }
    }
  }
  // Column g of fragment 4 j + q is channel 32 j + 8 (g / 2) + 2 q + g % 2, so that the output has
  // the channels of a RowOperand.
  const int column = s.lane / 4;
  const uint16_t* tile =
      s.transposed_value + int64_t{step} * D * step_blocks * R + s.lane % 4 * R +
      (column / 2 * 8 + column % 2) * step_blocks * R;
#pragma unroll
  for (int m = 0; m < D / 8; m++) {
    const int channel = m / 4 * 32 + m % 4 * 2;  // after the lane's first
    const auto* runs = reinterpret_cast<const uint2*>(tile + channel * step_blocks * R);
#pragma unroll
    for (int pair = 0; pair < R / 4; pair++) {
      const uint2 b = __ldg(runs + pair);
      multiply<IsBfloat16>(out[m], high[pair], {b.x, b.y});
      multiply<IsBfloat16>(out[m], low[pair], {b.x, b.y});
    }
  }
}

template <bool IsBfloat16, int D, int R>
DEVICE_FN void attend_means(const Sources<D, R>& s, const RowOperand<D>& query, float logit_scale,
                            int steps, Estimate<D>& result) {
  float maximum[2] = {lowest_logit, lowest_logit}, sum[2] = {}, out[D / 8][4] = {};
  const auto attend = [&]<bool Whole>(int step) {
    float p[R][2];
    run_logits<IsBfloat16, Whole>(s, query, logit_scale, step, p);
    float keep[2];
#pragma unroll
    for (int row = 0; row < 2; row++) {
      float largest = p[0][row];
#pragma unroll
      for (int run = 1; run < R; run++) largest = ptx::maximum_or_nan(largest, p[run][row]);
      const float after = ptx::maximum_or_nan(maximum[row], quad_maximum(largest));
      keep[row] = ptx::exp2_approx(maximum[row] - after);
      maximum[row] = after;
      sum[row] *= keep[row];
#pragma unroll
      for (int run = 0; run < R; run++) {
        p[run][row] = ptx::exp2_approx(p[run][row] - after);
        sum[row] += p[run][row];
      }
    }
    if (__any_sync(~0u, keep[0] != 1.0f || keep[1] != 1.0f)) {
#pragma unroll
      for (int m = 0; m < D / 8; m++) {
#pragma unroll
        for (int i = 0; i < 4; i++) out[m][i] *= keep[i / 2];
      }
    }
    add_values<IsBfloat16>(s, step, p, out);
  };
  int step = 0;
#pragma unroll 1
  for (; step < s.whole_steps(); step++) attend.template operator()<true>(step);
#pragma unroll 1
  for (; step < steps; step++) attend.template operator()<false>(step);
#pragma unroll
  for (int row = 0; row < 2; row++) {
    sum[row] += __shfl_xor_sync(~0u, sum[row], 1);
    sum[row] += __shfl_xor_sync(~0u, sum[row], 2);
    result.lse[row] = maximum[row] + ptx::log2_approx(sum[row]);
    const float inverse = __fdiv_rn(1.0f, sum[row]);
    float norm = 0.0f;
#pragma unroll
    for (int j = 0; j < D / 32; j++) {
      uint32_t high[4], low[4];
#pragma unroll
      for (int q = 0; q < 4; q++) {
        const float x = out[4 * j + q][2 * row] * inverse;
        const float y = out[4 * j + q][2 * row + 1] * inverse;
        norm = fmaf(x, x, fmaf(y, y, norm));
        split_pair<IsBfloat16>(x, y, high[q], low[q]);
      }
      result.high[j][row] = {high[0], high[1], high[2], high[3]};
      result.low[j][row] = {low[0], low[1], low[2], low[3]};
    }
    norm += __shfl_xor_sync(~0u, norm, 1);
    result.norm[row] = norm + __shfl_xor_sync(~0u, norm, 2);
  }
}

// The errors of the lane's block of a step, for rows g and g + 8.
template <bool IsBfloat16, bool Whole, int D, int R>
DEVICE_FN void block_errors(const Sources<D, R>& s, const RowOperand<D>& query,
                            const Estimate<D>& e, float logit_scale, bool pooled, int step,
                            float (&error)[2]) {
  float x[R + 1][2], dot[R + 1][2];  // of the runs, then of the block
  {
    float logit[R][2];
    run_logits<IsBfloat16, Whole>(s, query, logit_scale, step, logit);
    const uint16_t* block_keys = s.part(s.block_key, s.block_row(step));
    float c[4] = {};
#pragma unroll
    for (int j = 0; j < D / 32; j++) {
      multiply_channels<IsBfloat16>(c, query[j], chunk<D>(block_keys, 0, j));
    }
    constexpr int block_k = R * routing_run;
    constexpr float log2_block = log2_run + (R == 4 ? 2.0f : 3.0f);
    const float weight =
        Whole ? log2_block : log2_tokens(s.length, s.own_block(step) * block_k, block_k);
#pragma unroll
    for (int row = 0; row < 2; row++) {
#pragma unroll
      for (int run = 0; run < R; run++) {
        x[run][row] = ptx::exp2_approx(logit[run][row] - e.lse[row]);
      }
      // Both columns of a lane are its block.
      x[R][row] =
          pooled ? -ptx::exp2_approx(fmaf(c[2 * row], logit_scale, weight) - e.lse[row]) : 0.0f;
    }
  }
  {
    const uint16_t* values = s.run_part(s.value, step);
    const uint16_t* block_values = s.part(s.block_value, s.block_row(step));
    float c[R / 2 + 1][4] = {};  // values times o; the last: of the block
#pragma unroll
    for (int j = 0; j < D / 32; j++) {
#pragma unroll
      for (int f = 0; f <= R / 2; f++) {
        const uint4 b =
            f < R / 2 ? chunk<D>(values, 2 * f, j) : chunk<D>(block_values, 0, j);
        multiply_channels<IsBfloat16>(c[f], e.high[j], b);
        multiply_channels<IsBfloat16>(c[f], e.low[j], b);
      }
    }
#pragma unroll
    for (int row = 0; row < 2; row++) {
#pragma unroll
      for (int run = 0; run < R; run++) dot[run][row] = c[run / 2][2 * row + run % 2];
      dot[R][row] = c[R / 2][2 * row];
    }
  }
  const float* gram = s.gram + int64_t{s.own_block(step)} * routing_products(R);
  float sum[2] = {}, linear[2] = {}, square[2] = {};
  int entry = 0;
#pragma unroll
  for (int i = 0; i <= R; i++) {
    float product[2] = {};
#pragma unroll
    for (int j = i; j <= R; j++) {
      const float entry_value = __ldg(gram + entry++);
#pragma unroll
      for (int row = 0; row < 2; row++) product[row] = fmaf(entry_value, x[j][row], product[row]);
    }
#pragma unroll
    for (int row = 0; row < 2; row++) {
      square[row] = fmaf(x[i][row], product[row], square[row]);
      linear[row] = fmaf(x[i][row], dot[i][row], linear[row]);
      sum[row] += x[i][row];
    }
  }
#pragma unroll
  for (int row = 0; row < 2; row++) {
    const float all = sum[row];
    const float result = fmaf(all, fmaf(all, e.norm[row], -2.0f * linear[row]), square[row]);
    error[row] = result < 0.0f ? 0.0f : result;  // by rounding; NaN stays
  }
}

template <bool IsBfloat16, int D, int R>
__global__ void __launch_bounds__(threads) estimate_errors(const RoutingParams p) {
  const Geometry& g = p.geometry;
  const int index = static_cast<int>(blockIdx.y), lane = static_cast<int>(threadIdx.x % 32);
  const summaries::LaunchHead at = summaries::head_at(g, index);
  const int bin = min(max(__ldg(p.plan.mask_bin + at.unit.sample), 0), g.bins - 1);
  const int length = length_of(g, p.plan, at.unit.sample);
  const int first_run = static_cast<int>(blockIdx.x) * block_runs +
                        static_cast<int>(threadIdx.x / 32) * warp_runs;
  if (__ldg(p.plan.dynamic_blocks + bin * g.heads + at.head) <= 0) return;
  if (first_run * routing_run >= length) return;
  const auto sources = Sources<D, R>::of(p, at.unit.index, length);
  const int blocks = (length + R * routing_run - 1) / (R * routing_run);
  const int steps = (blocks + step_blocks - 1) / step_blocks;
  RowOperand<D> query;
  const int64_t rows = routing_query_runs(g.query_blocks, g.block_q);
  const int64_t first_row = index * rows + first_run;
#pragma unroll
  for (int j = 0; j < D / 32; j++) {
#pragma unroll
    for (int row = 0; row < 2; row++) {
      query[j][row] = chunk<D>(sources.part(p.means.query, first_row + lane / 4), row * 8, j);
    }
  }
  Estimate<D> estimate;
  attend_means<IsBfloat16>(sources, query, p.logit_scale, steps, estimate);
  // Of a query block: 4 or 8 rows of the operands.
  const int log2_runs = g.block_q == 64 ? 2 : 3, runs = 1 << log2_runs;
  const auto store_errors = [&]<bool Whole>(int step) {
    float error[2];
    block_errors<IsBfloat16, Whole>(sources, query, estimate, p.logit_scale, p.pooled, step, error);
    const int block = sources.own_block(step);
#pragma unroll
    for (int row = 0; row < 2; row++) {
      const int run = first_run + lane / 4 + row * 8;
      float sum = run * routing_run < length ? error[row] : 0.0f;
      sum += __shfl_xor_sync(~0u, sum, 4);
      sum += __shfl_xor_sync(~0u, sum, 8);
      const float other = __shfl_xor_sync(~0u, sum, 16);
      if (runs == 8) sum += other;
      if ((run & (runs - 1)) != 0 || run * routing_run >= length || block >= blocks) continue;
      const int64_t to = static_cast<int64_t>(index) * g.query_blocks + (run >> log2_runs);
      p.means.error[to * g.key_blocks + block] = sum;
    }
  };
  int step = 0;
#pragma unroll 1
  for (; step < sources.whole_steps(); step++) store_errors.template operator()<true>(step);
#pragma unroll 1
  for (; step < steps; step++) store_errors.template operator()<false>(step);
}

}  // namespace paro::kernels::routing
