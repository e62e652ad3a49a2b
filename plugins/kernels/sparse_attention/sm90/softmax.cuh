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

// What turns the lane's scores of a key block into logits, for each row. It is read from shared
// memory each time, since no registers are free to keep it.
template <class V>
struct Factor {
  float of_row[2];

  __device__ __forceinline__ Factor(const StepExtras<V>& extras, const float* row_factors,
                                    int block) {
    const int row = static_cast<int>(threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4);
    of_row[0] = row_factors[row] * extras.key_scale[block];
    of_row[1] = row_factors[row + 8] * extras.key_scale[block];
  }
};

template <class V>
DEVICE_FN void largest_scores(const int32_t (&scores)[score_registers<V>],
                              float (&largest)[V::blocks_a_step][2]) {
  int found[V::blocks_a_step][2];
#pragma unroll
  for (int i = 0; i < score_registers<V>; i += 2) {
    int& of_row = found[i / registers_a_block<V>][i / 2 % 2];
    const int of_pair = max(scores[i], scores[i + 1]);
    of_row = i % registers_a_block<V> < 4 ? of_pair : max(of_row, of_pair);
  }
#pragma unroll
  for (int block = 0; block < V::blocks_a_step; block++) {
#pragma unroll
    for (int row = 0; row < 2; row++) largest[block][row] = static_cast<float>(found[block][row]);
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

// `row_factors`: of the tile. `weights_of_row`: of the query block. In a step that is not plain, `p` receives the logits. NaN in a
// factor or a scale reaches the row's weight, and so all of its output.
template <class V, bool plain>
DEVICE_FN StepWeights<V> weigh_scores(const StepExtras<V>& extras, const float* weights_of_row,
                                      const float* row_factors,
                                      const int32_t (&scores)[score_registers<V>],
                                      float (&p)[score_registers<V>], RowState& state) {
  float logit[V::blocks_a_step][2];
  if constexpr (plain) largest_scores<V>(scores, logit);
#pragma unroll
  for (int block = 0; block < V::blocks_a_step; block++) {
    const Factor<V> factor(extras, row_factors, block);
    if constexpr (plain) {
#pragma unroll
      for (int row = 0; row < 2; row++) {
        float& largest = logit[block][row];
        largest = fmaf(largest, factor.of_row[row], extras.shift[block]);
      }
    } else {
      logit[block][0] = logit[block][1] = lowest_logit;
      const float* weight = weights_of_row + threadIdx.x % 4 * 2;
#pragma unroll
      for (int n = 0; n < registers_a_block<V>; n++) {
        const int i = block * registers_a_block<V> + n, row = i / 2 % 2;
        // sync: no data; the compiler moves no load across it, since the registers are full
        if (i % 4 == 0) __syncwarp();
        p[i] = fmaf(static_cast<float>(scores[i]), factor.of_row[row], weight[i / 4 * 8 + i % 2]);
        logit[block][row] = ptx::maximum_or_nan(logit[block][row], p[i]);
      }
    }
  }
  return weigh_maxima<V>(logit, state);
}

// P of one key block, as floats of 0 .. 255.
template <class V, bool plain, int block>
DEVICE_FN void exponentiate(const StepExtras<V>& extras, const float* row_factors,
                            const int32_t (&scores)[score_registers<V>],
                            const StepWeights<V>& weights, float (&p)[score_registers<V>]) {
  const Factor<V> factor(extras, row_factors, block);
#pragma unroll
  for (int n = 0; n < registers_a_block<V>; n++) {
    const int i = block * registers_a_block<V> + n, row = i / 2 % 2;
    const float offset = weights.offset[block][row];
    p[i] = ptx::exp2_approx(plain ? fmaf(static_cast<float>(scores[i]), factor.of_row[row], offset)
                                  : p[i] + offset);
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
// V into a part of the output.
template <class V, int block>
DEVICE_FN void pack_probabilities(const float (&p)[score_registers<V>],
                                  const StepWeights<V>& weights, float value_scale,
                                  Probabilities<V>& packed, float (&weight)[2], RowState& state) {
  uint32_t sum[2] = {};
#pragma unroll
  for (int i = 0; i < registers_a_block<V>; i += 8) {
#pragma unroll
    for (int row = 0; row < 2; row++) {
      const int first = block * registers_a_block<V> + i + 2 * row;
      const uint32_t codes = ptx::pack_u8x4(p[first], p[first + 1], p[first + 4], p[first + 5]);
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
