// Stage 2 for Hopper (sm_90a): wgmma on tiles that bulk copies bring. One thread block computes one
// query block of one head: a producer warp walks the key blocks on the mask row and fills a ring
// of stages, one or two warpgroups of 64 query rows empty it.
//
// Grid: as for kernel_sm80.cuh; the hardware hands out thread blocks in the order of tile_order.
#pragma once

#include "kernels/sparse_attention/query_tile.cuh"
#include "kernels/sparse_attention/sm90/consume.cuh"
#include "kernels/sparse_attention/sm90/produce.cuh"

namespace paro::kernels::sparse_attention {

#if PARO_HAS_WGMMA
namespace wgmma {

template <class V>
DEVICE_FN void produce_tile(const AttentionParams& p, const QueryTile& q, const MaskRow& mask,
                            const Extent& extent, const Ring<V>& ring) {
  ptx::registers_decrease<Layout<V>::producer_registers>();
  if (threadIdx.x >= Layout<V>::consumer_threads + 32) return;
  const Geometry& g = p.geometry;
  const int64_t first_block =
      static_cast<int64_t>(q.unit.index) * (g.key_blocks + g.summary_blocks);
  produce(p.prepared, first_block, mask, extent, ring);
}

template <class V>
DEVICE_FN void consume_tile(const AttentionParams& p, const QueryTile& q, const Ring<V>& ring) {
  using L = Layout<V>;
  static_assert(L::consumer_threads == TileSize<V>::threads, "load_query and store_output");
  constexpr int consumers = static_cast<int>(NamedBarrier::consumers);
  ptx::registers_increase<L::consumer_registers>();
  auto* row_factors = reinterpret_cast<float*>(ring.shared + L::factor_offset);
  load_query<V>(p, q, ring.shared + L::query_offset, row_factors);
  ptx::fence_proxy_async();
  // sync: the query tile and its factors are written
  ptx::named_barrier_sync(consumers, L::consumer_threads);
  ConsumerState<V> state;
  attend(ring, row_factors, state);
  // sync: everyone has left the tiles, where the output is staged
  ptx::named_barrier_sync(consumers, L::consumer_threads);
  store_output<V>(p, q, state.rows, state.out, ring.shared + L::output_offset);
}

template <class V>
DEVICE_FN void attend_tile(const AttentionParams& p) {
  using L = Layout<V>;
  DYN_SMEM(shared);
  const Ring<V> ring{shared, ptx::shared_u32(shared)};
  const Geometry& g = p.geometry;
  // In shared memory, since registers that no step needs would be spilled within steps.
  auto& work = *reinterpret_cast<QueryTile*>(shared + L::work_offset);
  static_assert(sizeof(QueryTile) <= L::work_bytes, "as laid out");
  QueryTile q;
  const uint32_t* mask_row;
  if (!find_tile(p, q, mask_row)) return;
  const Extent extent = extent_of<V::block_k>(g, q.length);
  auto* mask_words = reinterpret_cast<uint32_t*>(shared + L::mask_offset);
  const MaskRow mask{mask_words, mask_row_words(g.key_blocks, g.block_k, V::block_k)};
  load_mask<L::threads>(mask_row, extent, mask.word_count, mask_words);
  if (threadIdx.x == 0) {
    work = q;
    ring.initialise();
  }
  __syncthreads();  // sync: the mask row and `work` are written, the barriers initialised
  if (threadIdx.x >= L::consumer_threads) {
    produce_tile(p, work, mask, extent, ring);
  } else {
    consume_tile(p, work, ring);
  }
}

}  // namespace wgmma
#endif  // PARO_HAS_WGMMA

// Other targets than sm_90a get an empty body.
template <class V>
__global__ void __launch_bounds__(wgmma::Layout<V>::threads, wgmma::Layout<V>::blocks_an_sm)
    sparse_attention_wgmma(const __grid_constant__ AttentionParams p) {
#if PARO_HAS_WGMMA
  wgmma::attend_tile<V>(p);
#endif
}

}  // namespace paro::kernels::sparse_attention
