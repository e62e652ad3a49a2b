// The query warp: takes tiles until none is left, and copies their queries. And the consumers' part:
// the queries become the codes that wgmma reads.
//
// The warp copies the rows of the next tile as they are, while the consumers compute. Copies by
// cp.async take no registers, of which its warpgroup has few. The consumers quantize the rows when
// they begin the tile.
#pragma once

#include "kernels/sparse_attention/sm90/ring.cuh"
#include "ptx/cp_async.cuh"

#if PARO_HAS_WGMMA

namespace paro::kernels::sparse_attention::sm90 {

// Takes the next query block that no thread block has. By a whole warp.
DEVICE_FN uint32_t take_number(const AttentionParams& p) {
  int taken = 0;
  if (threadIdx.x % 32 == 0) taken = atomicAdd(p.tiles_taken, 1);
  // Each thread block has begun with one of its own.
  return gridDim.x + static_cast<uint32_t>(__shfl_sync(~0u, taken, 0));
}

// Finds the tile of query block `number`, or of the next that has one. All lanes write the same.
template <class V>
DEVICE_FN void find_tile(const AttentionParams& p, uint32_t number, TileData<V>& tile) {
#pragma unroll 1
  while (number < static_cast<uint32_t>(p.tiles)) {
    if (find_query_block<V::query_blocks>(p, tile.work, tile.masks, static_cast<int>(number))) {
      tile.first_block = first_prepared_block(p.geometry, tile.work.unit.index);
      return;
    }
    number = take_number(p);
  }
  tile.work.index = -1;
}

// Starts the copies of the tile's rows, in the head's order, and notes their tokens. Rows without a
// token become zeros.
template <class V>
DEVICE_FN void copy_queries(const AttentionParams& p, const Ring<V>& ring, TileData<V>& tile) {
  constexpr int chunks = V::head_dim / 8, rows_at_once = 32 / chunks;
  const Geometry& g = p.geometry;
  const QueryBlock& q = tile.work;
  const int lane = static_cast<int>(threadIdx.x % 32), first_position = q.index * V::block_q;
#pragma unroll
  for (int row = lane; row < V::tile_rows; row += 32) {
    const int position = first_position + row;
    tile.token[row] = position < g.tokens ? token_at(g, q.order, position) : 0;
  }
  __syncwarp();  // sync: the tokens are written
  const int channel = lane % chunks * 8, tokens = q.length - first_position;
  const auto* source =
      static_cast<const uint16_t*>(p.query) + element_at(g, q, 0, V::head_dim) + channel;
  const int64_t pitch = static_cast<int64_t>(g.heads) * V::head_dim;
  const uint64_t policy = ptx::evict_first_policy();
#pragma unroll 1
  for (int row = lane / chunks; row < V::tile_rows; row += rows_at_once) {
    ptx::cp_async_16_with_policy(
        ring.raw_query() + static_cast<uint32_t>((row * V::head_dim + channel) * 2),
        source + tile.token[row] * pitch, row < tokens, policy);
  }
}

// Starts the copies of what belongs to the channels of the tile's head.
template <class V>
DEVICE_FN void copy_affine(const AttentionParams& p, SharedMemory<V>& shared, TileData<V>& tile) {
  const auto copy = [&](paro_affine_row row, float* target) {
    const float* from = affine_row(p.geometry, p.plan, row, tile.work.unit.kv_head, V::head_dim);
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x % 32); i < V::head_dim; i += 32) {
      ptx::cp_async_small<4>(ptx::shared_u32(target + i), from + i);
    }
  };
  copy(PARO_EQUALIZER, shared.equalizer);
  copy(PARO_VALUE_MEAN, tile.value_mean);
  copy(PARO_VALUE_SCALE, tile.value_scale);
}

// By one warp, tile after tile.
template <class V>
DEVICE_FN void run_scheduler(const AttentionParams& p, const Ring<V>& ring) {
#pragma unroll 1
  for (int number = 0;; number++) {
    TileData<V>& tile = ring.tile(number);
    ring.wait_wanted(number);
    ring.wait_left(number);
    find_tile(p, number == 0 ? blockIdx.x : take_number(p), tile);
    ring.arrive(ring.published(number));
    if (tile.work.index < 0) return;
  }
}

// By one warp, tile after tile.
template <class V>
DEVICE_FN void run_query_warp(const AttentionParams& p, const Ring<V>& ring) {
#pragma unroll 1
  for (int number = 0;; number++) {
    ring.wait_published(number);
    TileData<V>& tile = ring.tile(number);
    ring.wait_query_empty(number);
    const bool exists = tile.work.index >= 0;
    if (exists) {
      copy_queries(p, ring, tile);
      copy_affine(p, ring.shared, tile);
      ptx::cp_async_wait_all();
    }
    ring.arrive(ring.query_full());
    if (!exists) return;
  }
}

// Turns a warp's 16 rows into codes and their factors. By all warps of a warpgroup.
template <class V>
DEVICE_FN void quantize_queries(const AttentionParams& p, int warpgroup, const Ring<V>& ring) {
  constexpr int lanes = V::head_dim / 8, rows_at_once = 32 / lanes;
  const int barrier = static_cast<int>(NamedBarrier::first_query) + warpgroup;
  SharedMemory<V>& shared = ring.shared;
  const int lane = static_cast<int>(threadIdx.x % 32), first_channel = lane % lanes * 8;
  const int first_row = static_cast<int>(threadIdx.x / 32) * V::rows_per_warp + lane / lanes;
  float equalizer[8];
#pragma unroll
  for (int i = 0; i < 8; i++) equalizer[i] = shared.equalizer[first_channel + i];
  // sync: no product of the warpgroup still reads the codes of the tile before
  ptx::named_barrier_sync(barrier, warpgroup_threads);
#pragma unroll 4
  for (int i = 0; i < V::rows_per_warp; i += rows_at_once) {
    const int row = first_row + i;
    const auto* raw = shared.raw_query + (row * V::head_dim + first_channel) * 2;
    write_query_row<V>(p, *reinterpret_cast<const uint4*>(raw), equalizer, row, first_channel,
                       shared.query, shared.row_factors);
  }
  ring.arrive(ring.query_empty());
  ptx::fence_proxy_async();
  // sync: the codes and their factors are written
  ptx::named_barrier_sync(barrier, warpgroup_threads);
}

}  // namespace paro::kernels::sparse_attention::sm90

#endif  // PARO_HAS_WGMMA
