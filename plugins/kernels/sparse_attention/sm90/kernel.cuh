// Stage 2 for Hopper (sm_90a): wgmma on tiles that bulk copies bring. A thread block computes tiles,
// one query block of a head or two, until none is left. Its query warp takes them in the order of
// tile_order and copies their queries. Its producer warp walks the key blocks on their mask rows and
// fills a ring of slots; two warpgroups of 64 query rows empty it. While they finish a tile, the
// queries and first steps of the next arrive.
#pragma once

#include "kernels/sparse_attention/sm90/attend.cuh"
#include "kernels/sparse_attention/sm90/gather.cuh"
#include "kernels/sparse_attention/sm90/produce.cuh"
#include "kernels/sparse_attention/sm90/store_rows.cuh"
#include "kernels/sparse_attention/sm90/tiles.cuh"

namespace paro::kernels::sparse_attention::sm90 {

#if PARO_HAS_WGMMA

// Decodes the mask rows of a tile. By the warp that reads them.
template <class V, bool Fine>
DEVICE_FN void load_mask(const Geometry& g, const TileData<V>& tile, const Extent& extent,
                         int word_count, uint32_t* words) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  __syncwarp();  // sync: no lane reads the masks of the tile before
#pragma unroll 1
  for (int block = 0; block < V::query_blocks; block++) {
    // Past the last query block its row is repeated: it lists no further spans.
    const int row = min(block, g.query_blocks - 1 - tile.work.index) * g.mask_words;
    uint32_t* const target = words + block * word_count;
#pragma unroll 1
    for (int i = lane; i < word_count; i += 32) {
      const uint32_t word = span_word(tile.masks.exact + row, extent, i);
      target[i] = word;
      if (Fine) {
        target[V::query_blocks * word_count + i] =
            word | span_word(tile.masks.fine + row, extent, i);
      }
    }
  }
  __syncwarp();  // sync: the masks are written
}

// By one warp, tile after tile.
template <class V, bool Fine>
DEVICE_FN void run_producer(const AttentionParams& p, const Ring<V>& ring) {
  const Geometry& g = p.geometry;
  const int word_count = span_mask_words(g.key_blocks, g.block_k, V::block_k);
  uint32_t* const words = ring.shared.template span_mask<Fine>();
  const TileMask<V::query_blocks> mask{words, word_count,
                                       words + (Fine ? V::query_blocks * word_count : 0)};
  RingPlace<V> at;
#pragma unroll 1
  for (int number = 0;; number++) {
    ring.wait_published(number);
    const TileData<V>& tile = ring.tile(number);
    if (tile.work.index < 0) return;
    Extent extent = extent_of<V::block_k>(g, __shfl_sync(~0u, tile.work.length, 0));
    extent.block_shift = 0;  // a constant: a span is a key block
    load_mask<V, Fine>(g, tile, extent, word_count, words);
    produce(p.prepared, tile.first_block, mask, extent, ring, at);
    if constexpr (Fine) {
      const int64_t first_group = static_cast<int64_t>(tile.work.unit.index) * g.key_blocks;
      produce_fine(p.fine, first_group, mask, extent, ring, at);
    }
    end_walk(ring, at);
    ring.arrive(ring.wanted());
  }
}

// By a warpgroup, tile after tile.
template <class V, bool Fine>
DEVICE_FN void run_consumers(const AttentionParams& p, const Ring<V>& ring) {
  // As in operands_of.
  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / warpgroup_threads, 0);
  const Turns<V> turns{warpgroup};
  const Operands operands = operands_of(ring);
  RingPlace<V> at;
  turns.begin();
#pragma unroll 1
  for (int number = 0;; number++) {
    ring.wait_query_full(number);
    const TileData<V>& tile = ring.tile(number);
    if (tile.work.index < 0) break;
    quantize_queries(p, warpgroup, ring);
    LoopState<V> state;
    attend<V, Fine>(ring, turns, operands, ring.shared.row_factors, at, state);
    store_rows(p, tile, state.rows[0], state.out);
    ring.arrive(ring.left(number));
  }
  turns.end();
}

// `Fine`: with fine summaries. A kernel of its own leaves the registers of the others as they are.
template <class V, bool Fine>
DEVICE_FN void attend_tiles(const AttentionParams& p) {
  DYN_SMEM(memory);
  auto& shared = *reinterpret_cast<SharedMemory<V>*>(memory);
  const Ring<V> ring{shared, ptx::shared_u32(memory)};
  if (threadIdx.x == 0) ring.initialise();
  __syncthreads();  // sync: the barriers are initialised
  if (threadIdx.x < V::compute_threads) {
    ptx::registers_increase<Layout<V>::consumer_registers>();
    run_consumers<V, Fine>(p, ring);
    return;
  }
  ptx::registers_decrease<Layout<V>::producer_registers>();
  // The shuffle tells the compiler that whole warps branch: they can use uniform registers.
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  constexpr int first = V::compute_threads / 32;
  if (warp == first) run_producer<V, Fine>(p, ring);
  if (warp == first + 1) run_scheduler(p, ring);
  if (warp == first + 2) run_query_warp(p, ring);
}

#endif  // PARO_HAS_WGMMA

// Compiled for sm_90a alone; nvcc's pass for the host has no body.
template <class V>
__global__ void __launch_bounds__(Layout<V>::threads, Layout<V>::blocks_an_sm)
    sparse_attention_wgmma(const __grid_constant__ AttentionParams p) {
#if PARO_HAS_WGMMA
  attend_tiles<V, false>(p);
#endif
}

template <class V>
__global__ void __launch_bounds__(Layout<V>::threads, Layout<V>::blocks_an_sm)
    sparse_attention_wgmma_fine(const __grid_constant__ AttentionParams p) {
#if PARO_HAS_WGMMA
  attend_tiles<WithFine<V>, true>(p);
#endif
}

}  // namespace paro::kernels::sparse_attention::sm90
