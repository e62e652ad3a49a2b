// Stage 2 for every generation from sm_80, by mma.sync. One thread block computes one query block
// of one head: it walks the spans on its mask row, with cp.async filling a ring of two slots, and
// scatters its rows.
#pragma once

#include "kernels/sparse_attention/sm80/attend_step.cuh"

namespace paro::kernels::sparse_attention::sm80 {

template <class V>
PTX_FN void attend_query_block(const AttentionParams& p) {
  constexpr int ahead = Layout<V>::slots - 1;  // steps between a load and its use
  DYN_SMEM(memory);
  auto& shared = *reinterpret_cast<SharedMemory<V>*>(memory);
  const Work& work = shared.work;
  const Geometry& g = p.geometry;
  const SpanMask mask{shared.span_mask(),
                      span_mask_words(g.key_blocks, g.block_k, V::step_keys)};
  int hot_steps;
  {  // A block and not a function: as one, kernels of 4-bit values spill on sm_100 (nvcc 13.0).
    QueryBlock q;
    const uint32_t* mask_row;
    if (!find_query_block(p, q, mask_row)) return;
    const Extent extent = extent_of<V::step_keys>(g, q.length);
    load_span_mask<V::compute_threads>(mask_row, extent, mask.word_count, shared.span_mask());
    __syncthreads();  // sync: the span mask is written
    const SpanCount count = count_spans(mask, extent);
    if (threadIdx.x == 0) {
      shared.work = {.query = q,
                     .extent = extent,
                     .count = count,
                     .first_block = first_prepared_block(g, q.unit.index)};
    }
    // A step of the hot loop is plain, and so is the span that it loads. The last plain spans are
    // therefore computed by the second loop, which asks how many tokens a key stands for.
    hot_steps = max(count.plain - ahead, 0);
    __syncthreads();  // sync: `work` is written
  }
  const Ring<V> ring{p.prepared, shared, ptx::shared_u32(shared.tiles.slots)};
  SpanWalk walk(mask);
  for (int step = 0; step < ahead; step++) ring.load_any(step, mask, walk);
  load_query<V>(p, work.query, shared.tiles.query, shared.row_factors);
  __syncthreads();  // sync: the query tile and its factors are written

  LoopState<V> state;
  clear_state<V>(state);
  const uint32_t query_tile = ptx::shared_u32(shared.tiles.query);
  const float* lane_factors =
      shared.row_factors + threadIdx.x / 32 * V::rows_per_warp + threadIdx.x % 32 / 4;
  BiasedZero zero;
  ptx::hold(zero.registers, ptx::biased_zero);
#pragma unroll 1
  for (int step = 0; step < hot_steps; step++) {
    ptx::cp_async_wait<ahead - 1>();
    // sync: every thread's part of this slot has landed, and every thread has left the slot that
    // the next load overwrites
    __syncthreads();
    ring.load_plain(step + ahead, walk);
    attend_step<V, true>(query_tile, lane_factors, ring.key_tile(step), ring.extras(step), zero,
                         state);
  }
  for (int step = max(hot_steps, ahead); step < work.count.plain; step++) {
    for (int i = static_cast<int>(threadIdx.x); i < V::step_keys; i += V::compute_threads) {
      ring.extras(step).tokens[i] = 1;
    }
  }
#pragma unroll 1
  for (int step = hot_steps; step < work.count.total; step++) {
    ptx::cp_async_wait<ahead - 1>();
    __syncthreads();  // sync: as in the hot loop, and `tokens` is written
    ring.load_any(step + ahead, mask, walk);
    attend_step<V, false>(query_tile, lane_factors, ring.key_tile(step), ring.extras(step), zero,
                          state);
  }

  ptx::cp_async_wait_all();
  __syncthreads();  // sync: every thread has left the tiles, which the output overwrites
  store_output<V>(p, work.query, state.rows, state.out, shared.output);
}

// Whether the target's tensor cores compute 4-bit products as the variant does. Other targets get
// an empty body.
template <class V>
constexpr bool is_for_this_target() {
#if defined(__CUDA_ARCH__)
  constexpr bool has_four_bit = __CUDA_ARCH__ < 900;
  constexpr bool uses_four_bit = V::qk == Number::s4 || V::pv == Number::s4;
  return !uses_four_bit || (V::four_bit == FourBit::native) == has_four_bit;
#else
  return true;
#endif
}

// At 255 registers a thread, two thread blocks of 128 threads or four of 64 fill an SM.
template <class V>
__global__ void __launch_bounds__(V::compute_threads, 256 / V::compute_threads)
    sparse_attention(const AttentionParams p) {
  if constexpr (is_for_this_target<V>()) attend_query_block<V>(p);
}

}  // namespace paro::kernels::sparse_attention::sm80
