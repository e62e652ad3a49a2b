// A consumer warpgroup: 64 query rows through all steps.
//
// Q K^T of a step and the first P V of the step before are issued together; while P V runs, the
// scores become P. Two warpgroups take turns at issuing, so that one's softmax meets the other's
// products.
#pragma once

#include "kernels/sparse_attention/sm90/softmax.cuh"
#include "kernels/sparse_attention/store_output.cuh"
#include "ptx/wgmma.cuh"

#if PARO_HAS_WGMMA

namespace paro::kernels::sparse_attention::wgmma {

// What a lane holds: the accumulators of its two rows and their running result.
template <class V>
struct ConsumerState {
  int32_t scores[score_registers<V>];
  int32_t products[V::head_dim / 2];
  PackedP<V> p[V::blocks_a_step];     // of the step whose P V is next
  float weight[V::blocks_a_step][2];  // of that product
  RowState rows[1];
  Output<V> out;
};

template <class V>
DEVICE_FN void clear_state(ConsumerState<V>& state) {
  // The first step's P V is of no step: zeros.
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

// Descriptors of the warpgroup's queries and of the first stage's tiles.
struct Operands {
  uint64_t query, key, value;
};

template <class V>
DEVICE_FN Operands operands_of(const Ring<V>& ring, int warpgroup) {
  using L = Layout<V>;
  const uint32_t rows = static_cast<uint32_t>(warpgroup * warpgroup_rows * V::head_dim);
  return {ptx::wgmma_descriptor(ring.base + L::query_offset + rows, L::query_key_swizzle),
          ptx::wgmma_descriptor(ring.key_tile(0), L::query_key_swizzle),
          ptx::wgmma_descriptor(ring.value_tile(0), L::value_swizzle)};
}

// An instruction takes this many bytes of each row.
constexpr uint32_t instruction_bytes = 32;

// S = Q K^T, on its way.
template <class V>
DEVICE_FN void issue_scores(const Operands& operands, int stage, ConsumerState<V>& state) {
  const auto offset = static_cast<uint32_t>(stage * Layout<V>::stage_bytes);
#pragma unroll
  for (uint32_t k = 0; k < V::head_dim / instruction_bytes; k++) {
    ptx::wgmma_s8_s8<V::step_keys>(
        state.scores, ptx::wgmma_advance(operands.query, k * instruction_bytes),
        ptx::wgmma_advance(operands.key, offset + k * instruction_bytes), k > 0);
  }
  ptx::wgmma_commit();
}

// P V of one key block of the step, on its way. A tile of values holds the keys of two
// instructions.
template <class V, int block>
DEVICE_FN void issue_products(const Operands& operands, int stage, ConsumerState<V>& state) {
  constexpr uint32_t tile_instructions = value_tile_keys / instruction_bytes;
  constexpr uint32_t count = V::block_k / instruction_bytes, first = block * count;
  const auto offset = static_cast<uint32_t>(stage * Layout<V>::stage_bytes);
#pragma unroll
  for (uint32_t i = first; i < first + count; i++) {
    const uint32_t place = i / tile_instructions * Layout<V>::value_tile_bytes +
                           i % tile_instructions * instruction_bytes;
    ptx::wgmma_u8_s8<V::head_dim>(state.products, state.p[block][i - first],
                                  ptx::wgmma_advance(operands.value, offset + place), i > first);
  }
  ptx::wgmma_commit();
}

// out += P V * weight, once P V of the key block is there.
template <class V, int block>
DEVICE_FN void accumulate(ConsumerState<V>& state) {
  ptx::wgmma_wait<0>();
  ptx::wgmma_settle(state.products);
#pragma unroll
  for (int i = 0; i < V::head_dim / 2; i++) {
    float& out = state.out[0][i / 4][i % 4];
    out = fmaf(static_cast<float>(state.products[i]), state.weight[block][i / 2 % 2], out);
  }
}

// All that is weighed against the reference before, against the new one.
template <class V>
DEVICE_FN void rescale(const StepWeights<V>& weights, ConsumerState<V>& state) {
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

// Which warpgroup issues products next.
template <class V>
struct Turns {
  static constexpr int threads = Layout<V>::consumer_threads;

  int warpgroup;

  DEVICE_FN int barrier_of(int turn) { return static_cast<int>(NamedBarrier::first_turn) + turn; }
  // The first turn is the first warpgroup's, as if the other had had one.
  __device__ __forceinline__ void begin() const {
    if (warpgroup == 1) pass();
  }
  __device__ __forceinline__ void wait() const {
    // sync: the other warpgroup has issued its products
    if constexpr (Layout<V>::consumers == 2) {
      ptx::named_barrier_sync(barrier_of(warpgroup), threads);
    }
  }
  __device__ __forceinline__ void pass() const {
    if constexpr (Layout<V>::consumers == 2) {
      ptx::named_barrier_arrive(barrier_of(1 - warpgroup), threads);
    }
  }
};

// One step: its scores, and P V of the step before, which is in `previous`; the first names itself.
template <class V, bool plain>
DEVICE_FN void attend_step(const Ring<V>& ring, const Turns<V>& turns, const Operands& operands,
                           const float* row_factors, int stage, int previous,
                           ConsumerState<V>& state) {
  turns.wait();
  ptx::wgmma_fence();
  issue_scores(operands, stage, state);
  issue_products<V, 0>(operands, previous, state);
  turns.pass();
  ptx::wgmma_wait<1>();
  ptx::wgmma_settle(state.scores);
  const StepExtras<V>& extras = ring.extras(stage);
  float p[score_registers<V>];
  RowState& rows = state.rows[0];
  const StepWeights<V> weights = weigh_scores<V, plain>(extras, row_factors, state.scores, p, rows);
  if (weights.moved) rescale(weights, state);
  exponentiate<V, plain, 0>(extras, row_factors, state.scores, weights, p);
  accumulate<V, 0>(state);
  if constexpr (V::blocks_a_step == 2) {
    ptx::wgmma_fence();
    issue_products<V, 1>(operands, previous, state);
  }
  pack<V, 0>(p, weights, extras.value_scale[0], state.p[0], state.weight[0], rows);
  if constexpr (V::blocks_a_step == 2) {
    exponentiate<V, plain, 1>(extras, row_factors, state.scores, weights, p);
    accumulate<V, 1>(state);
    pack<V, 1>(p, weights, extras.value_scale[1], state.p[1], state.weight[1], rows);
  }
  if (previous != stage) ring.release(previous);
}

// All steps of the ring, until its end.
template <class V>
DEVICE_FN void attend(const Ring<V>& ring, const float* row_factors, ConsumerState<V>& state) {
  // Uniform for the compiler too: descriptors are in uniform registers.
  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / warpgroup_threads, 0);
  const Turns<V> turns{warpgroup};
  const Operands operands = operands_of(ring, warpgroup);
  clear_state(state);
  RingPlace<V> at;
  int previous = at.stage;
  ring.wait_full(at);
  StepKind kind = ring.extras(0).kind;
  if (kind == StepKind::end) return;
  turns.begin();
  const auto advance = [&] {
    previous = at.stage;
    at.advance();
    ring.wait_full(at);
    kind = ring.extras(at.stage).kind;
  };
#pragma unroll 1
  while (kind == StepKind::plain) {
    attend_step<V, true>(ring, turns, operands, row_factors, at.stage, previous, state);
    advance();
  }
#pragma unroll 1
  while (kind == StepKind::weighed) {
    attend_step<V, false>(ring, turns, operands, row_factors, at.stage, previous, state);
    advance();
  }
  turns.wait();
  ptx::wgmma_fence();
  issue_products<V, 0>(operands, previous, state);
  if (warpgroup == 0) turns.pass();
  accumulate<V, 0>(state);
  if constexpr (V::blocks_a_step == 2) {
    ptx::wgmma_fence();
    issue_products<V, 1>(operands, previous, state);
    accumulate<V, 1>(state);
  }
}

}  // namespace paro::kernels::sparse_attention::wgmma

#endif  // PARO_HAS_WGMMA
