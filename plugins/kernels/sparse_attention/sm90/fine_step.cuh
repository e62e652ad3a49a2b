// A consumer warpgroup's steps of fine summaries: 16 gathered groups, with a scale each, as 64 keys.
// P of a step is relative to the maximum of its row and step. Its codes have the share of their
// group's value scale in the largest of the step; the row sums take P itself.
#pragma once

#include "kernels/sparse_attention/sm90/consume.cuh"

#if PARO_HAS_WGMMA

namespace paro::kernels::sparse_attention::sm90 {

// A variant's steps of fine summaries, in its own slots.
template <class V>
struct FineVariant : V {
  static constexpr int block_k = fine_step_keys, step_keys = fine_step_keys, blocks_a_step = 1;
};

// Scores become logits in `p`: each key with the scale of its group and its weight.
template <class F>
DEVICE_FN StepWeights<F> weigh_groups(const FineExtras& extras, const float* row_factors,
                                      const int32_t (&scores)[score_registers<F>],
                                      float (&p)[score_registers<F>], RowState& state) {
  const int row = static_cast<int>(threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4);
  const float factor[2] = {row_factors[row], row_factors[row + 8]};
  const float* scales = extras.key_scale[threadIdx.x % 4];
  const float* weights = extras.weight + threadIdx.x % 4 * 2;
  float logit[1][2] = {{lowest_logit, lowest_logit}};
#pragma unroll
  for (int i = 0; i < score_registers<F>; i++) {
    const int of_row = i / 2 % 2;
    const float by = factor[of_row] * scales[i / 8];
    p[i] = fmaf(static_cast<float>(scores[i]), by, weights[i / 4 * 8 + i % 2]);
    logit[0][of_row] = ptx::maximum_or_nan(logit[0][of_row], p[i]);
  }
  return weigh_maxima<F>(logit, state);
}

// Adds P to the row sums and packs its codes. `p` has the shares of the groups.
template <class F>
DEVICE_FN void pack_shares(const float (&p)[score_registers<F>], const StepWeights<F>& weights,
                           const FineExtras& extras, Probabilities<F>& packed, float (&weight)[2],
                           RowState& state) {
  const float* inverse = extras.inverse_share[threadIdx.x % 4];
  float sum[2] = {};
#pragma unroll
  for (int i = 0; i < score_registers<F>; i += 8) {
#pragma unroll
    for (int row = 0; row < 2; row++) {
      const float* four = p + i + 2 * row;
      sum[row] = fmaf(four[0] + four[1] + (four[4] + four[5]), inverse[i / 8], sum[row]);
      packed[i / 16][i / 8 % 2 * 2 + row] = ptx::pack_u8x4(four[0], four[1], four[4], four[5]);
    }
  }
#pragma unroll
  for (int row = 0; row < 2; row++) {
    const float take = take_of<F>(weights, 0, row, state);
    state.sum[row] = fmaf(sum[row], take, state.sum[row]);
    weight[row] = take * extras.value_scale;
  }
}

// As attend_step.
template <class V>
DEVICE_FN void attend_fine_step(const Ring<V>& ring, const Turns<V>& turns,
                                const Operands& operands, const float* row_factors, int slot,
                                int previous, LoopState<FineVariant<V>>& state) {
  using F = FineVariant<V>;
  turns.wait();
  ptx::wgmma_fence();
  issue_scores<F>(operands, slot_offset<V>(slot), state);
  issue_products<F, 0>(operands, slot_offset<V>(previous), state);
  turns.pass();
  ptx::wgmma_wait<1>();
  ptx::wgmma_settle(state.scores);
  const FineExtras& extras = ring.fine_extras(slot);
  float p[score_registers<F>];
  RowState& rows = state.rows[0];
  const StepWeights<F> weights = weigh_groups<F>(extras, row_factors, state.scores, p, rows);
  if (weights.moved) rescale<F>(weights, state);
  const float* log2_share = extras.log2_share[threadIdx.x % 4];
#pragma unroll
  for (int i = 0; i < score_registers<F>; i++) {
    p[i] = ptx::exp2_approx(p[i] + (weights.offset[0][i / 2 % 2] + log2_share[i / 8]));
  }
  accumulate<F, 0>(state);
  pack_shares<F>(p, weights, extras, state.p[0], state.weight[0], rows);
  if (previous != slot) ring.release(previous);
}

// The steps from `at` on, all of which are fine. Products of earlier steps are added.
template <class V>
DEVICE_FN void attend_fine_steps(const Ring<V>& ring, const Turns<V>& turns,
                                 const Operands& operands, const float* row_factors,
                                 RingPlace<V>& at, LoopState<V>& state) {
  using F = FineVariant<V>;
  LoopState<F> fine;
  clear_state(fine);
  fine.rows[0] = state.rows[0];
#pragma unroll
  for (int i = 0; i < V::head_dim / 2; i++) fine.out[0][i / 4][i % 4] = state.out[0][i / 4][i % 4];
  int previous = at.slot;
#pragma unroll 1
  while (ring.extras(at.slot).kind == StepKind::fine) {
    attend_fine_step(ring, turns, operands, row_factors, at.slot, previous, fine);
    advance_step<V>(ring, turns, operands, at, previous, fine);
  }
  if (previous != at.slot) {
    add_last_products<F>(turns, operands, slot_offset<V>(previous), fine);
    ring.release(previous);
  }
  state.rows[0] = fine.rows[0];
#pragma unroll
  for (int i = 0; i < V::head_dim / 2; i++) state.out[0][i / 4][i % 4] = fine.out[0][i / 4][i % 4];
}

}  // namespace paro::kernels::sparse_attention::sm90

#endif  // PARO_HAS_WGMMA
