// A consumer warpgroup: 64 query rows through all steps.
//
// Q K^T of a step and the first P V of the step before are issued together. While P V runs, the
// scores become P. Two warpgroups take turns at issuing, so that the softmax of one overlaps with
// the products of the other.
#pragma once

#include "kernels/sparse_attention/sm90/softmax.cuh"
#include "ptx/wgmma.cuh"

#if PARO_HAS_WGMMA

namespace paro::kernels::sparse_attention::sm90 {

// What a lane carries from step to step: accumulators and running result of its two rows.
template <class V>
struct LoopState {
  int32_t scores[score_registers<V>];
  int32_t products[V::head_dim / 2];
  Probabilities<V> p[V::blocks_a_step];     // of the step whose P V comes next
  float weight[V::blocks_a_step][2];  // of that product
  RowState rows[1];
  Output<V> out;
};

template <class V>
DEVICE_FN void clear_state(LoopState<V>& state) {
  // The first step issues a P V that belongs to no step: it multiplies zeros.
#pragma unroll
  for (int block = 0; block < V::blocks_a_step; block++) {
#pragma unroll
    for (int i = 0; i < V::block_k / 8; i++) state.p[block][i / 4][i % 4] = 0;
  }
#pragma unroll
  for (int row = 0; row < 2; row++) {
#pragma unroll
    for (int block = 0; block < V::blocks_a_step; block++) state.weight[block][row] = 0.0f;
    state.rows[0].maximum[row] = lowest_logit;
    state.rows[0].sum[row] = 0.0f;
  }
#pragma unroll
  for (int i = 0; i < V::head_dim / 2; i++) state.out[0][i / 4][i % 4] = 0.0f;
}

// Descriptors of the warpgroup's queries and of the tiles in the first slot.
struct Operands {
  uint64_t query, key, value;
};

template <class V>
DEVICE_FN Operands operands_of(const Ring<V>& ring) {
  // The shuffle tells the compiler that the value is uniform, so that descriptors are in uniform
  // registers. One of the product leaves it nothing to compute anew in each step.
  const uint32_t warpgroup = threadIdx.x / warpgroup_threads;
  const uint32_t rows = __shfl_sync(~0u, warpgroup * (warpgroup_rows * V::head_dim), 0);
  return {ptx::wgmma_descriptor(ring.query_tile() + rows, Layout<V>::query_key_swizzle),
          ptx::wgmma_descriptor(ring.key_tile(0), Layout<V>::query_key_swizzle),
          ptx::wgmma_descriptor(ring.value_tile(0), Layout<V>::value_swizzle)};
}

// An instruction takes this many bytes of each row.
constexpr uint32_t instruction_bytes = 32;

// From the tiles in the first slot to those in another.
template <class V>
DEVICE_FN uint32_t slot_offset(int slot) {
  return static_cast<uint32_t>(slot * Layout<V>::slot_bytes);
}

// Issues S = Q K^T. `offset`: slot_offset.
template <class V>
DEVICE_FN void issue_scores(const Operands& operands, uint32_t offset, LoopState<V>& state) {
#pragma unroll
  for (uint32_t k = 0; k < V::head_dim / instruction_bytes; k++) {
    ptx::wgmma_s8_s8<V::step_keys>(
        state.scores, ptx::wgmma_advance(operands.query, k * instruction_bytes),
        ptx::wgmma_advance(operands.key, offset + k * instruction_bytes), k > 0);
  }
  ptx::wgmma_commit();
}

// Issues P V of one key block of the step. A value tile holds the keys of two instructions.
template <class V, int block>
DEVICE_FN void issue_products(const Operands& operands, uint32_t offset, LoopState<V>& state) {
  constexpr uint32_t tile_instructions = value_tile_keys / instruction_bytes;
  constexpr uint32_t count = V::block_k / instruction_bytes, first = block * count;
#pragma unroll
  for (uint32_t i = first; i < first + count; i++) {
    const uint32_t place = i / tile_instructions * Layout<V>::value_tile_bytes +
                           i % tile_instructions * instruction_bytes;
    ptx::wgmma_u8_s8<V::head_dim>(state.products, state.p[block][i - first],
                                  ptx::wgmma_advance(operands.value, offset + place), i > first);
  }
  ptx::wgmma_commit();
}

// Waits for P V of the key block, then out += P V * weight.
template <class V, int block>
DEVICE_FN void accumulate(LoopState<V>& state) {
  ptx::wgmma_wait<0>();
  ptx::wgmma_settle(state.products);
#pragma unroll
  for (int i = 0; i < V::head_dim / 2; i++) {
    float& out = state.out[0][i / 4][i % 4];
    out = fmaf(static_cast<float>(state.products[i]), state.weight[block][i / 2 % 2], out);
  }
}

// Changes everything that is relative to the previous reference to the new one.
template <class V>
DEVICE_FN void rescale(const StepWeights<V>& weights, LoopState<V>& state) {
#pragma unroll
  for (int row = 0; row < 2; row++) {
    const float keep = ptx::exp2_approx(weights.before[row] - state.rows[0].maximum[row]);
    state.rows[0].sum[row] *= keep;
#pragma unroll
    for (int block = 0; block < V::blocks_a_step; block++) state.weight[block][row] *= keep;
#pragma unroll
    for (int i = 0; i < V::head_dim / 2; i++) {
      if (i / 2 % 2 == row) state.out[0][i / 4][i % 4] *= keep;
    }
  }
}

// Which warpgroup issues products next, from the first tile to the last: one may be in the next tile
// already. Warpgroups with masks of their own have different numbers of steps, and take none.
template <class V>
struct Turns {
  static constexpr int threads = V::compute_threads;

  int warpgroup;

  DEVICE_FN int barrier_of(int turn) { return static_cast<int>(NamedBarrier::first_turn) + turn; }
  // The first warpgroup has the first turn.
  __device__ __forceinline__ void begin() const {
    if (warpgroup == 1) pass();
  }
  // And the last, which the other has passed to it.
  __device__ __forceinline__ void end() const {
    if (warpgroup == 0) wait();
  }
  __device__ __forceinline__ void wait() const {
    // sync: the other warpgroup has issued its products
    if constexpr (V::query_blocks == 1) {
      ptx::named_barrier_sync(barrier_of(warpgroup), threads);
    }
  }
  __device__ __forceinline__ void pass() const {
    if constexpr (V::query_blocks == 1) {
      ptx::named_barrier_arrive(barrier_of(1 - warpgroup), threads);
    }
  }
};

// One step: its scores, and P V of the step before, whose slot is `previous`. For the first step
// `previous` is its own slot.
template <class V, bool plain>
DEVICE_FN void attend_step(const Ring<V>& ring, const Turns<V>& turns, const Operands& operands,
                           const float* row_factors, int slot, int previous,
                           LoopState<V>& state) {
  turns.wait();
  ptx::wgmma_fence();
  issue_scores(operands, slot_offset<V>(slot), state);
  issue_products<V, 0>(operands, slot_offset<V>(previous), state);
  turns.pass();
  ptx::wgmma_wait<1>();
  ptx::wgmma_settle(state.scores);
  const StepExtras<V>& extras = ring.extras(slot);
  float p[score_registers<V>];
  RowState& rows = state.rows[0];
  const AttendedKeys<V>& keys = extras.keys[turns.warpgroup % V::query_blocks];
  const StepWeights<V> weights =
      weigh_scores<V, plain>(extras, keys, row_factors, state.scores, rows);
  if (weights.moved) rescale(weights, state);
  exponentiate<V, plain, 0>(extras, row_factors, state.scores, weights, p);
  accumulate<V, 0>(state);
  if constexpr (V::blocks_a_step == 2) {
    ptx::wgmma_fence();
    issue_products<V, 1>(operands, slot_offset<V>(previous), state);
  }
  pack_probabilities<V, plain, 0>(keys, p, weights, extras.value_scale[0], state.p[0],
                                  state.weight[0], rows);
  if constexpr (V::blocks_a_step == 2) {
    exponentiate<V, plain, 1>(extras, row_factors, state.scores, weights, p);
    accumulate<V, 1>(state);
    pack_probabilities<V, plain, 1>(keys, p, weights, extras.value_scale[1], state.p[1],
                                    state.weight[1], rows);
  }
  if (previous != slot) ring.release(previous);
}

// Adds P V of a step that no other follows at once, whose tiles are at `offset`. `V`: of the step.
template <class V, class T>
DEVICE_FN void add_last_products(const T& turns, const Operands& operands, uint32_t offset,
                                 LoopState<V>& state) {
  turns.wait();
  ptx::wgmma_fence();
  issue_products<V, 0>(operands, offset, state);
  turns.pass();
  accumulate<V, 0>(state);
  if constexpr (V::blocks_a_step == 2) {
    ptx::wgmma_fence();
    issue_products<V, 1>(operands, offset, state);
    accumulate<V, 1>(state);
  }
}

// Goes to the next step that the warpgroup attends, or to the end. `previous` becomes the slot of
// the step before, whose P V comes with the next step's scores. `S`: the variant of the steps.
template <class V, class S>
DEVICE_FN void advance_step(const Ring<V>& ring, const Turns<V>& turns, const Operands& operands,
                            RingPlace<V>& at, int& previous, LoopState<S>& state) {
  previous = at.slot;
  at.advance();
  ring.wait_full(at);
  if constexpr (V::query_blocks > 1) {
    bool pends = true;
    while (!ring.attends(at.slot, turns.warpgroup)) {
      ring.release(at.slot);
      at.advance();
      if (pends && at.slot == previous) {  // the producer waits for this slot
        add_last_products<S>(turns, operands, slot_offset<V>(previous), state);
        ring.release(previous);
#pragma unroll
        for (int row = 0; row < 2; row++) state.weight[0][row] = 0.0f;
        pends = false;
      }
      ring.wait_full(at);
    }
    // As before the first step, the next one's first product belongs to no step.
    if (!pends) previous = at.slot;
  }
}

}  // namespace paro::kernels::sparse_attention::sm90

#endif  // PARO_HAS_WGMMA
