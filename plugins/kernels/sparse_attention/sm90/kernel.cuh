// Stage 2 for Hopper (sm_90a): wgmma on tiles that bulk copies bring. One thread block computes one
// query block of one head. A producer warp walks the key blocks on the mask row and fills a ring of
// slots; one or two warpgroups of 64 query rows empty it.
#pragma once

#include "kernels/sparse_attention/sm90/consume.cuh"
#include "kernels/sparse_attention/sm90/produce.cuh"

namespace paro::kernels::sparse_attention::sm90 {

#if PARO_HAS_WGMMA

template <class V>
DEVICE_FN void run_producer(const AttentionParams& p, const QueryBlock& q, const SpanMask& mask,
                            const Extent& extent, const Ring<V>& ring) {
  ptx::registers_decrease<Layout<V>::producer_registers>();
  if (threadIdx.x >= V::compute_threads + 32) return;
  produce(p.prepared, first_prepared_block(p.geometry, q.unit.index), mask, extent, ring);
}

template <class V>
DEVICE_FN void run_consumers(const AttentionParams& p, const QueryBlock& q, const Ring<V>& ring) {
  constexpr int consumers = static_cast<int>(NamedBarrier::consumers);
  SharedMemory<V>& shared = ring.shared;
  ptx::registers_increase<Layout<V>::consumer_registers>();
  load_query<V>(p, q, shared.query, shared.row_factors);
  ptx::fence_proxy_async();
  // sync: the query tile and its factors are written
  ptx::named_barrier_sync(consumers, V::compute_threads);
  LoopState<V> state;
  attend(ring, shared.row_factors, state);
  // sync: every consumer has left the tiles, which the output overwrites
  ptx::named_barrier_sync(consumers, V::compute_threads);
  store_output<V>(p, q, state.rows, state.out, shared.output);
}

template <class V>
DEVICE_FN void attend_query_block(const AttentionParams& p) {
  DYN_SMEM(memory);
  auto& shared = *reinterpret_cast<SharedMemory<V>*>(memory);
  const Ring<V> ring{shared, ptx::shared_u32(memory)};
  const Geometry& g = p.geometry;
  QueryBlock q;
  MaskRows rows;
  if (!find_query_block(p, q, rows)) return;
  const Extent extent = extent_of<V::block_k>(g, q.length);
  const SpanMask mask{shared.span_mask(), span_mask_words(g.key_blocks, g.block_k, V::block_k),
                      shared.span_mask()};
  load_span_mask<Layout<V>::threads>(rows.exact, nullptr, extent, mask.word_count,
                                     shared.span_mask());
  if (threadIdx.x == 0) {
    shared.work = q;
    ring.initialise();
  }
  __syncthreads();  // sync: the mask and `work` are written, the barriers initialised
  if (threadIdx.x >= V::compute_threads) {
    run_producer(p, shared.work, mask, extent, ring);
  } else {
    run_consumers(p, shared.work, ring);
  }
}

#endif  // PARO_HAS_WGMMA

// Compiled for sm_90a alone; nvcc's pass for the host has no body.
template <class V>
__global__ void __launch_bounds__(Layout<V>::threads, Layout<V>::blocks_an_sm)
    sparse_attention_wgmma(const __grid_constant__ AttentionParams p) {
#if PARO_HAS_WGMMA
  attend_query_block<V>(p);
#endif
}

}  // namespace paro::kernels::sparse_attention::sm90
