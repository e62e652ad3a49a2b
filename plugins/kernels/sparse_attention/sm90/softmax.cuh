// Softmax of a step, base 2, for the two rows of a lane.
//
// S arrives as integers, which I2FP converts. The mma.sync kernels avoid the conversion by a bias
// in the accumulators (ptx::biased_zero), because an mma reads its start from other registers. A
// wgmma adds to its accumulators in place: setting them costs as much as converting them, and the
// bias would still have to be subtracted.
#pragma once

#include "kernels/sparse_attention/sm90/ring.cuh"

#if PARO_HAS_WGMMA

namespace paro::kernels::sparse_attention::sm90 {

// Accumulators of a lane: register 4 n + 2 row + i is key 8 n + 2 (lane % 4) + i.
template <class V>
constexpr int score_registers = V::step_keys / 2;

// The weights of a row are relative to a reference, RowState::maximum, which moves when a step's
// maximum exceeds it by more than this. It need not be the row's maximum: the codes of P do not
// depend on it, and the weights of the steps, which are floats, stay below 2^32. So rows are
// rescaled once or twice in a walk.
constexpr float reference_slack = 32.0f;

template <class V>
constexpr int registers_a_block = score_registers<V> / V::blocks_a_step;

// What turns logits into P, and P into a part of the output, for the two rows of a lane.
template <class V>
struct StepWeights {
  float offset[V::blocks_a_step][2];  // logit + offset is log2 of the code of P
  float before[2];                    // the reference before this step
  bool moved;                         // whether any row of the warp has a new reference
};

// Steps that are not plain raise their factors to it, so that what a logit lacks can be added to a
// score. Times it no score is larger than 2^-6.
constexpr float least_factor = 0x1p-27f;

// What turns the lane's scores of a key block into logits, for each row. It is read from shared
// memory each time, since no registers are free to keep it.
template <class V, bool plain>
struct Factor {
  float of_row[2];

  __device__ __forceinline__ Factor(const StepExtras<V>& extras, const float* row_factors,
                                    int block) {
    const int row = static_cast<int>(threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      of_row[i] = row_factors[row + 8 * i] * extras.key_scale[block];
      if (!plain) of_row[i] = ptx::maximum_or_nan(of_row[i], least_factor);
    }
  }
};

// The largest scores of attended keys.
template <class V, bool plain>
DEVICE_FN void largest_scores(const AttendedKeys<V>& keys,
                              const int32_t (&scores)[score_registers<V>],
                              float (&largest)[V::blocks_a_step][2]) {
  int found[V::blocks_a_step][2];
  const int32_t* penalties = keys.penalty[threadIdx.x % 4];
#pragma unroll
  for (int i = 0; i < score_registers<V>; i += 2) {
    int& of_row = found[i / registers_a_block<V>][i / 2 % 2];
    const bool is_first = i % registers_a_block<V> < 4;
    if constexpr (plain) {
      const int of_pair = max(scores[i], scores[i + 1]);
      of_row = is_first ? of_pair : max(of_row, of_pair);
    } else {
      const int first = scores[i] + penalties[i / 4 * 2];
      of_row = is_first ? first : max(first, of_row);
      of_row = max(scores[i + 1] + penalties[i / 4 * 2 + 1], of_row);
    }
  }
#pragma unroll
  for (int block = 0; block < V::blocks_a_step; block++) {
#pragma unroll
    for (int row = 0; row < 2; row++) largest[block][row] = static_cast<float>(found[block][row]);
  }
}

// Adds to the scores of a key what its logits lack.
template <class V>
DEVICE_FN void weigh_last_key(const StepExtras<V>& extras, const float* row_factors,
                              int32_t (&scores)[score_registers<V>]) {
  const int block = extras.last_key / V::block_k;
  const Factor<V, false> factor(extras, row_factors, block);
  const int column = extras.last_key - static_cast<int>(threadIdx.x % 4) * 2;
#pragma unroll
  for (int row = 0; row < 2; row++) {
    const int lack = __float2int_rn(__fdividef(extras.lack, factor.of_row[row]));
#pragma unroll
    for (int i = 2 * row; i < score_registers<V>; i += 4) {
#pragma unroll
      for (int j = 0; j < 2; j++) scores[i + j] += column == i / 4 * 8 + j ? lack : 0;
    }
  }
}

// From the largest logits of the lane to those of the rows, and to the weights.
template <class V>
DEVICE_FN StepWeights<V> weigh_maxima(const float (&logit)[V::blocks_a_step][2], RowState& state) {
  StepWeights<V> weights;
#pragma unroll
  for (int row = 0; row < 2; row++) {
    weights.before[row] = state.maximum[row];
    const float limit = state.maximum[row] + reference_slack;
#pragma unroll
    for (int block = 0; block < V::blocks_a_step; block++) {
      float of_row = quad_maximum(logit[block][row]);
      if (of_row < lowest_logit) of_row = lowest_logit;
      if (of_row > limit) state.maximum[row] = fmaxf(state.maximum[row], of_row);
      weights.offset[block][row] = log2_levels<V>() - of_row;
    }
  }
  const bool moves = state.maximum[0] != weights.before[0] || state.maximum[1] != weights.before[1];
  weights.moved = __any_sync(~0u, moves) != 0;
  return weights;
}

// `row_factors`: of the tile. `keys`: of the query block. NaN in a factor or a scale reaches the row's
// weight, and so all of its output.
template <class V, bool plain>
DEVICE_FN StepWeights<V> weigh_scores(const StepExtras<V>& extras, const AttendedKeys<V>& keys,
                                      const float* row_factors,
                                      int32_t (&scores)[score_registers<V>], RowState& state) {
  if constexpr (!plain) {
    if (extras.last_key >= 0) weigh_last_key<V>(extras, row_factors, scores);
  }
  float logit[V::blocks_a_step][2];
  largest_scores<V, plain>(keys, scores, logit);
#pragma unroll
  for (int block = 0; block < V::blocks_a_step; block++) {
    const Factor<V, plain> factor(extras, row_factors, block);
#pragma unroll
    for (int row = 0; row < 2; row++) {
      float& largest = logit[block][row];
      largest = fmaf(largest, factor.of_row[row], extras.shift[block]);
    }
  }
  return weigh_maxima<V>(logit, state);
}

// P of one key block, as floats of 0 .. 255.
template <class V, bool plain, int block>
DEVICE_FN void exponentiate(const StepExtras<V>& extras, const float* row_factors,
                            const int32_t (&scores)[score_registers<V>],
                            const StepWeights<V>& weights, float (&p)[score_registers<V>]) {
  const Factor<V, plain> factor(extras, row_factors, block);
  float offset[2];
#pragma unroll
  for (int row = 0; row < 2; row++) {
    offset[row] = weights.offset[block][row];
    if (!plain) offset[row] += extras.shift[block];
  }
#pragma unroll
  for (int n = 0; n < registers_a_block<V>; n++) {
    const int i = block * registers_a_block<V> + n, row = i / 2 % 2;
    p[i] = ptx::exp2_approx(fmaf(static_cast<float>(scores[i]), factor.of_row[row], offset[row]));
  }
}

// P of a key block as the A operand of P V. An instruction takes 32 keys.
template <class V>
using Probabilities = uint32_t[V::block_k / 32][4];

// By how much the row's P of a key block is smaller than if it were relative to the reference.
template <class V>
DEVICE_FN float take_of(const StepWeights<V>& weights, int block, int row, const RowState& state) {
  const float logit = log2_levels<V>() - weights.offset[block][row];
  return ptx::exp2_approx(logit - state.maximum[row]);
}

// Packs the codes of P of one key block and adds them to the row sums. `weight` turns the block's P
// V into a part of the output. `keys`: of the query block.
template <class V, bool plain, int block>
DEVICE_FN void pack_probabilities(const AttendedKeys<V>& keys, const float (&p)[score_registers<V>],
                                  const StepWeights<V>& weights, float value_scale,
                                  Probabilities<V>& packed, float (&weight)[2], RowState& state) {
  uint32_t sum[2] = {};
  const auto* attended = reinterpret_cast<const uint32_t*>(keys.code[threadIdx.x % 4]);
#pragma unroll
  for (int i = 0; i < registers_a_block<V>; i += 8) {
#pragma unroll
    for (int row = 0; row < 2; row++) {
      const int first = block * registers_a_block<V> + i + 2 * row;
      uint32_t codes = ptx::pack_u8x4(p[first], p[first + 1], p[first + 4], p[first + 5]);
      if (!plain) codes &= attended[first / 8];
      sum[row] = __dp4a(codes, 0x01010101u, sum[row]);
      packed[i / 16][i / 8 % 2 * 2 + row] = codes;
    }
  }
#pragma unroll
  for (int row = 0; row < 2; row++) {
    const float take = take_of<V>(weights, block, row, state);
    state.sum[row] = fmaf(static_cast<float>(sum[row]), take, state.sum[row]);
    weight[row] = take * value_scale;
  }
}

}  // namespace paro::kernels::sparse_attention::sm90

#endif  // PARO_HAS_WGMMA
