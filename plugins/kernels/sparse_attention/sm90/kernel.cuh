// Stage 2 for Hopper (sm_90a): wgmma on tiles that bulk copies bring. One thread block computes one
// query block of one head. A producer warp walks the key blocks on the mask row and fills a ring of
// slots; one or two warpgroups of 64 query rows empty it.
#pragma once

#include "kernels/sparse_attention/sm90/attend.cuh"
#include "kernels/sparse_attention/sm90/gather.cuh"
#include "kernels/sparse_attention/sm90/produce.cuh"

namespace paro::kernels::sparse_attention::sm90 {

#if PARO_HAS_WGMMA

template <class V, bool Fine>
DEVICE_FN void run_producer(const AttentionParams& p, const QueryBlock& q,
                            const TileMask<V::query_blocks>& mask,
                            const Extent& extent, const Ring<V>& ring) {
  ptx::registers_decrease<Layout<V>::producer_registers>();
  if (threadIdx.x >= V::compute_threads + 32) return;
  RingPlace<V> at;
  produce(p.prepared, first_prepared_block(p.geometry, q.unit.index), mask, extent, ring, at);
  if constexpr (Fine) {
    const int64_t first_group = static_cast<int64_t>(q.unit.index) * p.geometry.key_blocks;
    produce_fine(p.fine, first_group, mask, extent, ring, at);
  }
  end_walk(ring, at);
}

template <class V, bool Fine>
DEVICE_FN void run_consumers(const AttentionParams& p, const QueryBlock& q, const Ring<V>& ring) {
  constexpr int consumers = static_cast<int>(NamedBarrier::consumers);
  SharedMemory<V>& shared = ring.shared;
  ptx::registers_increase<Layout<V>::consumer_registers>();
  load_query<V>(p, q, shared.query, shared.row_factors);
  ptx::fence_proxy_async();
  // sync: the query tile and its factors are written
  ptx::named_barrier_sync(consumers, V::compute_threads);
  LoopState<V> state;
  attend<V, Fine>(ring, shared.row_factors, state);
  // sync: every consumer has left the tiles, which the output overwrites
  ptx::named_barrier_sync(consumers, V::compute_threads);
  store_output<V>(p, q, state.rows, state.out, shared.output);
}

// `Fine`: with fine summaries. A kernel of its own leaves the registers of the others as they are.
template <class V, bool Fine>
DEVICE_FN void attend_query_block(const AttentionParams& p) {
  DYN_SMEM(memory);
  auto& shared = *reinterpret_cast<SharedMemory<V>*>(memory);
  const Ring<V> ring{shared, ptx::shared_u32(memory)};
  const Geometry& g = p.geometry;
  QueryBlock q;
  MaskRows rows;
  if (!find_query_block<V::query_blocks>(p, q, rows)) return;
  Extent extent = extent_of<V::block_k>(g, q.length);
  extent.block_shift = 0;  // a constant: a span is a key block
  const int word_count = span_mask_words(g.key_blocks, g.block_k, V::block_k);
  uint32_t* const words = shared.template span_mask<Fine>();
  constexpr int query_blocks = V::query_blocks;
  const TileMask<query_blocks> mask{words, word_count,
                                    words + (Fine ? query_blocks * word_count : 0)};
#pragma unroll
  for (int block = 0; block < query_blocks; block++) {
    // Past the last query block its row is repeated: it lists no further spans.
    const int row = min(block, g.query_blocks - 1 - q.index) * g.mask_words;
    load_mask_row<Layout<V>::threads>(rows.exact + row, Fine ? rows.fine + row : nullptr, extent,
                                      word_count, words + block * word_count,
                                      words + (query_blocks + block) * word_count);
  }
  if (threadIdx.x == 0) {
    shared.work = q;
    ring.initialise();
  }
  __syncthreads();  // sync: the mask and `work` are written, the barriers initialised
  if (threadIdx.x >= V::compute_threads) {
    run_producer<V, Fine>(p, shared.work, mask, extent, ring);
  } else {
    run_consumers<V, Fine>(p, shared.work, ring);
  }
}

#endif  // PARO_HAS_WGMMA

// Compiled for sm_90a alone; nvcc's pass for the host has no body.
template <class V>
__global__ void __launch_bounds__(Layout<V>::threads, Layout<V>::blocks_an_sm)
    sparse_attention_wgmma(const __grid_constant__ AttentionParams p) {
#if PARO_HAS_WGMMA
  attend_query_block<V, false>(p);
#endif
}

template <class V>
__global__ void __launch_bounds__(Layout<V>::threads, Layout<V>::blocks_an_sm)
    sparse_attention_wgmma_fine(const __grid_constant__ AttentionParams p) {
#if PARO_HAS_WGMMA
  attend_query_block<WithFine<V>, true>(p);
#endif
}

}  // namespace paro::kernels::sparse_attention::sm90
