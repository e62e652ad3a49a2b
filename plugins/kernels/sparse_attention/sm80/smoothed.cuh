// Stage 2 of smoothed calls. A logit of a listed key is the sum of three products:
//
//     s4(q - q_I) . s4(k - k_J)   in the hot loop, with a scale for each row and for each key
//     q_I . s8(k - k_J)           the key's bias, which smoothing/key_biases.cuh has computed
//     s8(q) . s8(k_J)             the row's offset, the same for all keys of a block
//
// An offset joins the maximum of its row and step, not the logits. The offsets of eight blocks are
// one product, since an instruction has eight columns. Summary tokens have 8-bit keys, and meet the
// 8-bit query tile.
#pragma once

#include "kernels/sparse_attention/sm80/smoothed_query.cuh"
#include "kernels/sparse_attention/sm80/smoothed_step.cuh"

namespace paro::kernels::sparse_attention::sm80 {

// All summary tokens that are attended, one span after the other. The slots are free.
template <class V>
PTX_FN void attend_summaries(const SpanMask& mask, SmoothedMemory<V>& shared,
                             uint32_t query_tile,
                             const float* lane_factors, const BiasedZero& zero,
                             LoopState<EightBits<V>>& state) {
  using Eight = EightBits<V>;
  using L = Layout<Eight>;
  const Work& work = shared.work;
  StepExtras<Eight>& extras = shared.extras[0];
  const uint32_t key_tile = ptx::shared_u32(shared.tiles.slots);
  const uint32_t value_tile = key_tile + static_cast<uint32_t>(offsetof(Slot<Eight>, value));
#pragma unroll 1
  for (int group = 0; group < work.extent.summary_spans(); group++) {
    if (!has_summaries(mask, work.extent, group)) continue;
    const int span = work.extent.token_spans + group;
    copy_tile<L::key_row_bytes, V::step_keys, V::compute_threads>(
        key_tile, shared.sources.mean + int64_t{group} * L::key_bytes);
    load_smoothed_values<Eight>(shared.sources, span, value_tile, extras.value_scale);
    if (threadIdx.x == 0) extras.key_scale = __ldg(shared.sources.mean_scale + group);
    const auto attended = [&](int part, int block) {
      return attended_keys(mask, work.extent, span, part, block);
    };
    write_weights<Eight>(work.extent, span, attended, extras.weights);
    ptx::cp_async_wait_all();
    __syncthreads();  // sync: every thread's part of the slot has landed
    attend_step<Eight, false>(query_tile, lane_factors, key_tile, value_tile, extras, zero, state,
                              [] {});
    __syncthreads();  // sync: every thread has left the only slot
  }
}

template <class V>
PTX_FN void attend_smoothed_block(const AttentionParams& p) {
  using Eight = EightBits<V>;
  DYN_SMEM(memory);
  auto& shared = *reinterpret_cast<SmoothedMemory<V>*>(memory);
  const Work& work = shared.work;
  const Geometry& g = p.geometry;
  const bool has_fine = p.plan.fine_mask != nullptr;
  const int word_count = span_mask_words(g.key_blocks, g.block_k, V::step_keys);
  uint32_t* const words = reinterpret_cast<uint32_t*>(&shared + 1);
  const SpanMask mask{words, word_count, words + (has_fine ? word_count : 0)};
  {
    QueryBlock q;
    MaskRows rows;
    if (!find_query_block(p, q, rows)) return;
    const Extent extent = extent_of<V::step_keys>(g, q.length);
    load_span_mask<V::compute_threads>(rows.exact, rows.fine, extent, word_count, words);
    __syncthreads();  // sync: the span mask is written
    const SpanCount count = count_spans(mask, extent);
    if (threadIdx.x == 0) {
      shared.work = {.query = q,
                     .extent = extent,
                     .count = count,
                     .first_block = first_prepared_block(g, q.unit.index)};
      shared.sources = sources_of<V>(p, q);
      const int partial = extent.length >> extent.span_shift;
      const bool has_partial = extent.length % extent.span_keys() != 0 && mask.has(partial);
      shared.listed = count.plain + (has_partial ? 1 : 0);
    }
    __syncthreads();  // sync: `work` is written
  }
  if (threadIdx.x < 32) list_spans(mask, 2 * offset_blocks, {}, shared);
  __syncthreads();  // sync: the spans of the first steps are written
  const LanePlaces places = lane_places(shared);
  const auto load = [&](int step, int span) {
    const int slot = step % 2;
    load_smoothed_step<V>(places, shared.sources, span, static_cast<uint32_t>(slot),
                          shared.extras[slot].value_scale);
  };
  if (shared.listed > 0) load(0, shared.spans[0]);
  load_smoothed_query<V>(p, work.query, shared);
  __syncthreads();  // sync: the query tiles and their factors are written

  LoopState<Eight> state;
  clear_state<Eight>(state);
  const uint32_t query_tile = ptx::shared_u32(shared.tiles.query);
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t lane_row = warp * V::rows_per_warp + threadIdx.x % 32 / 4;
  const float* lane_factors = shared.row_factors + lane_row;
  BiasedZero zero;
  ptx::hold(zero.registers, ptx::biased_zero);
#pragma unroll 1
  for (int first = 0; first < shared.listed; first += offset_blocks) {
    const int left = shared.listed - first;
    const uint32_t thread = ptx::computed_here(threadIdx.x);
    write_step_factors<V>(thread, first, left, zero, shared);
    // The barriers of this round's steps come before the next round reads them.
    if (thread < 32) list_spans(mask, first + 3 * offset_blocks, shared.listing, shared);
#pragma unroll 1
    for (int place = 0; place < min(left, offset_blocks); place++) {
      const int slot = place % 2;
      ptx::cp_async_wait_all();
      // sync: every thread's part of this slot has landed, and every thread has left the other one,
      // which the next load overwrites
      __syncthreads();
      if (place + 1 < left) load(place + 1, shared.spans[(first + place + 1) % listed_spans]);
      const auto* offsets = reinterpret_cast<const float*>(
          reinterpret_cast<const uint8_t*>(shared.steps) + places.offsets_from +
          static_cast<uint32_t>(place) * uint32_t{sizeof(shared.steps[0].offset[0])});
      const auto* lane_keys = reinterpret_cast<const float4*>(
          reinterpret_cast<const uint8_t*>(shared.factors) + places.factors_from +
          static_cast<uint32_t>(slot) * uint32_t{sizeof(KeyFactors<V>)});
      const float* value_scale = V::pv == Number::s8 ? &shared.steps[warp].value_scale[place]
                                                     : shared.extras[slot].value_scale;
      attend_smoothed_step<V>(places, shared.residual_factors + lane_row, offsets,
                              static_cast<uint32_t>(slot), lane_keys, value_scale, zero, state);
    }
  }
  ptx::cp_async_wait_all();
  __syncthreads();  // sync: every thread has left the tiles, which summaries or the output overwrite
  attend_summaries<V>(mask, shared, query_tile, lane_factors, zero, state);
  if (has_fine) {
    attend_fine_steps<Eight, SmoothedMemory<V>::fine_slots>(
        p, work, mask, query_tile, lane_factors, ptx::shared_u32(shared.tiles.slots), shared.fine,
        zero, state);
  }
  store_output<Eight>(p, work.query, state.rows, state.out, shared.output);
}

template <class V>
__global__ void __launch_bounds__(V::compute_threads, smoothed_blocks_an_sm<V>)
    sparse_attention_smoothed(const AttentionParams p) {
  check_target<V>();
  attend_smoothed_block<V>(p);
}

}  // namespace paro::kernels::sparse_attention::sm80
