// Stage 2 for every generation from sm_80, by mma.sync. One thread block computes one query block
// of one head: it walks the spans on its mask row, with cp.async filling a ring of slots, and
// scatters its rows.
#pragma once

#include "kernels/sparse_attention/sm80/fine_step.cuh"

namespace paro::kernels::sparse_attention::sm80 {

// Steps between a load and its use; of keys where the ring is staggered.
template <class V>
constexpr int ahead = Layout<V>::slots - 1;

// Waits until a step's tiles have landed, and starts the load of the step `ahead` of it. Where the
// ring is staggered: until its keys have, and starts the load of its values.
template <class V, class Load>
DEVICE_FN void await_tiles(const Ring<V>& ring, int step, const Load& load) {
  if constexpr (Layout<V>::staggered) {
    ptx::cp_async_wait_all();
    // sync: every thread's part of the keys has landed, and every thread has left the values and
    // the keys of the step before
    __syncthreads();
    ring.load_step_values(step);
    load();
  } else if constexpr (ahead<V> == 0) {
    __syncthreads();  // sync: every thread has left the only slot, which this load overwrites
    load();
    ptx::cp_async_wait_all();
    __syncthreads();  // sync: every thread's part of the slot has landed
  } else {
    ptx::cp_async_wait<ahead<V> - 1>();
    // sync: every thread's part of this slot has landed, and every thread has left the slot that
    // the next load overwrites
    __syncthreads();
    load();
  }
}

// Where the ring is staggered, waits until a step's values have landed; the keys of the next step,
// which were loaded after them, may still be on their way.
template <class V>
DEVICE_FN void await_values() {
  if constexpr (Layout<V>::staggered) {
    ptx::cp_async_wait<1>();
    __syncthreads();  // sync: every thread's part of the values has landed
  }
}

// `Fine`: with fine summaries. A kernel of its own leaves the registers of the others as they are.
template <class V, bool Fine>
PTX_FN void attend_query_block(const AttentionParams& p) {
  DYN_SMEM(memory);
  auto& shared = *reinterpret_cast<SharedMemory<V>*>(memory);
  const Work& work = shared.work;
  const Geometry& g = p.geometry;
  const int word_count = span_mask_words(g.key_blocks, g.block_k, V::step_keys);
  uint32_t* const words = mask_words(shared, Fine);
  constexpr int query_blocks = V::query_blocks;
  const auto mask_with = [&](int row_words) {
    return TileMask<query_blocks>{words, row_words, words + (Fine ? query_blocks * row_words : 0)};
  };
  const auto mask = mask_with(word_count);
  {  // A block and not a function: as one, kernels of 4-bit values spill on sm_100 (nvcc 13.0).
    QueryBlock q;
    MaskRows rows;
    if (!find_query_block<query_blocks>(p, q, rows)) return;
    const Extent extent = extent_of<V::step_keys>(g, q.length);
#pragma unroll
    for (int block = 0; block < query_blocks; block++) {
      // Past the last query block its row is repeated: it lists no further spans.
      const int row = min(block, g.query_blocks - 1 - q.index) * g.mask_words;
      load_mask_row<V::compute_threads>(rows.exact + row, Fine ? rows.fine + row : nullptr, extent,
                                        word_count, words + block * word_count,
                                        words + (query_blocks + block) * word_count);
    }
    __syncthreads();  // sync: the span mask is written
    const SpanCount count = count_spans(mask, extent);
    if (threadIdx.x == 0) {
      shared.work = {.query = q,
                     .extent = extent,
                     .count = count,
                     .first_block = first_prepared_block(g, q.unit.index)};
    }
    __syncthreads();  // sync: `work` is written
  }
  const Ring<V> ring{p.prepared, shared, ptx::shared_u32(&shared.tiles.slots)};
  TileWalk<query_blocks> walk(mask);
  for (int step = 0; step < ahead<V>; step++) ring.load_any(step, mask, walk);
  load_query<V>(p, work.query, shared.tiles.query, shared.row_factors);
  __syncthreads();  // sync: the query tile and its factors are written

  LoopState<V> state;
  clear_state<V>(state);
  const uint32_t query_tile = ptx::shared_u32(shared.tiles.query);
  const float* lane_factors =
      shared.row_factors + threadIdx.x / 32 * V::rows_per_warp + threadIdx.x % 32 / 4;
  BiasedZero zero;
  ptx::hold(zero.registers, ptx::biased_zero);
  // Spans that are not plain come first, so that the loads of the second loop are all of one kind.
  int step = 0;
#pragma unroll 1
  for (; step < work.count.special(); step++) {
    // Its barrier also says that the weights of its keys are written.
    const auto load = [&] { ring.load_any(step + ahead<V>, mask, walk); };
    await_tiles<V>(ring, step, load);
    attend_step<V, false>(query_tile, lane_factors, ring.key_tile(step), ring.value_tile(step),
                          ring.extras(step), zero, state, [&] { await_values<V>(); });
  }
  const int last = work.count.total - ahead<V>;
#pragma unroll 1
  for (; step < last + ahead<V>; step++) {
    const auto load = [&] {
      if (step < last) ring.load_plain(step + ahead<V>, mask, walk);
      ptx::cp_async_commit();
    };
    await_tiles<V>(ring, step, load);
    attend_step<V, true>(query_tile, lane_factors, ring.key_tile(step), ring.value_tile(step),
                         ring.extras(step), zero, state, [&] { await_values<V>(); });
  }

  ptx::cp_async_wait_all();
  __syncthreads();  // sync: every thread has left the tiles, which fine summaries or the output overwrite
  if constexpr (Fine) {
    const int row_words =
        LoadOrder<V>::keeps_mask
            ? word_count
            : span_mask_words(work.extent.token_spans, V::step_keys, V::step_keys);
    attend_fine_blocks<V>(p, mask_with(row_words), query_tile, lane_factors, zero, state);
  }
  store_output<V>(p, work.query, state.rows, state.out, shared.output);
}

template <class V>
DEVICE_FN void check_target() {
#if defined(__CUDA_ARCH__)
  static_assert((V::qk != Number::s4 && V::pv != Number::s4) ||
                    (V::four_bit == FourBit::native) == (__CUDA_ARCH__ < 900),
                "the target's tensor cores compute 4-bit products as the variant does");
#endif
}

template <class V>
__global__ void __launch_bounds__(V::compute_threads, blocks_an_sm<V>)
    sparse_attention(const AttentionParams p) {
  check_target<V>();
  attend_query_block<V, false>(p);
}

template <class V>
__global__ void __launch_bounds__(V::compute_threads, blocks_an_sm<V>)
    sparse_attention_fine(const AttentionParams p) {
  check_target<V>();
  attend_query_block<V, true>(p);
}

}  // namespace paro::kernels::sparse_attention::sm80
