// Stage 2 for the mma.sync generations (sm_80 and later). One thread block computes one query block
// of one head: it walks the slots on its mask row, two stages of K and V in flight by cp.async, and
// scatters its rows.
//
// Grid: x, all (tile, sample) pairs, longest tiles of all samples first.
#pragma once

#include "kernels/sparse_attention/attend_slot.cuh"
#include "kernels/sparse_attention/query_tile.cuh"

namespace paro::kernels::sparse_attention {

// The slot's K and V, and what goes with them, on their way to one stage.
template <class V>
DEVICE_FN void fetch_slot(const PreparedKeys& keys, int64_t first_block, int block_shift, int slot,
                          uint32_t tiles, StageExtras<V>* extras) {
  using Size = TileSize<V>;
  static_assert(sizeof(StageExtras<V>) == Size::extras_bytes, "as laid out");
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t block = first_block + (slot >> block_shift);
  const int64_t stored = (first_block << block_shift) + slot;
  copy_tile<Size::key_row_bytes, V::step_keys, Size::threads>(tiles,
                                                              keys.key + stored * Size::key_bytes);
  copy_tile<Size::value_row_bytes, Size::value_tiles * Size::value_rows, Size::threads>(
      tiles + Size::key_bytes, keys.value + stored * Size::value_bytes);
  if (is_integer(V::qk) && thread == 0) {
    ptx::cp_async_small<4>(ptx::shared_u32(&extras->key_scale), keys.key_scale + block);
  }
  if (V::pv == Number::s8 && thread == 32) {
    ptx::cp_async_small<4>(ptx::shared_u32(extras->value_scale), keys.value_scale + block);
  }
  if (V::pv == Number::s4 && thread < V::head_dim / 4) {
    ptx::cp_async_16(ptx::shared_u32(extras->value_scale) + static_cast<uint32_t>(thread) * 16,
                     keys.value_scale + block * V::head_dim + thread * 4);
  }
}

// How many tokens each key of a slot stands for, for slots that may not be plain.
template <class V>
DEVICE_FN void write_tokens(const MaskRow& mask, const Extent& extent, int slot, uint8_t* tokens) {
#pragma unroll
  for (int i = 0; i < V::step_keys; i += TileSize<V>::threads) {
    const int column = i + static_cast<int>(threadIdx.x);
    if (column >= V::step_keys) break;
    tokens[column] = static_cast<uint8_t>(token_count(mask, extent, slot, column));
  }
}

// What the thread block works on, kept in shared memory: registers that no step of the hot loop
// needs would be spilled there.
struct TileWork {
  QueryTile query;
  Extent extent;
  SlotCount count;
  int64_t first_block;  // of the unit's prepared key blocks
};

// Fetches slots in the order of the walk, one stage after the other.
template <class V>
struct Pipeline {
  using Size = TileSize<V>;

  const PreparedKeys& keys;
  const TileWork& work;
  uint32_t tiles;
  StageExtras<V>* extras;

  __device__ __forceinline__ uint32_t tiles_of(int step) const {
    return tiles + static_cast<uint32_t>(step % Size::stages * Size::tile_bytes);
  }
  __device__ __forceinline__ StageExtras<V>& extras_of(int step) const {
    return extras[step % Size::stages];
  }
  __device__ __forceinline__ void fetch(int step, int slot) const {
    fetch_slot<V>(keys, work.first_block, work.extent.block_shift, slot, tiles_of(step),
                  &extras_of(step));
  }
  // Whatever comes next, or nothing after the last slot.
  __device__ __forceinline__ void fetch_any(int step, const MaskRow& mask, SlotWalk& walk) const {
    if (step < work.count.total) {
      const int slot = walk.next(work.extent);
      fetch(step, slot);
      write_tokens<V>(mask, work.extent, slot, extras_of(step).tokens);
    }
    ptx::cp_async_commit();
  }
};

template <class V>
PTX_FN void attend_tile(const AttentionParams& p) {
  using Size = TileSize<V>;
  static_assert(sizeof(TileWork) <= Size::work_bytes, "as laid out");
  DYN_SMEM(shared);
  auto* row_factor = reinterpret_cast<float*>(shared + Size::factor_offset);
  auto* mask_words = reinterpret_cast<uint32_t*>(shared + Size::mask_offset);
  auto& work = *reinterpret_cast<TileWork*>(shared + Size::work_offset);
  const uint32_t query_tile = ptx::shared_u32(shared + Size::query_offset);
  const Geometry& g = p.geometry;
  const MaskRow mask{mask_words, mask_row_words(g.key_blocks, g.block_k, V::step_keys)};
  int hot_steps;
  {
    QueryTile q;
    const uint32_t* mask_row;
    if (!find_tile(p, q, mask_row)) return;
    const Extent extent = extent_of<V::step_keys>(g, q.length);
    load_mask<Size::threads>(mask_row, extent, mask.word_count, mask_words);
    __syncthreads();  // sync: the mask row is written
    const SlotCount count = count_slots(mask, extent);
    if (threadIdx.x == 0) {
      work = {q, extent, count,
              static_cast<int64_t>(q.unit.index) * (g.key_blocks + g.summary_blocks)};
    }
    // A step of the hot loop, and the slot it fetches, are plain; so that the last plain slots,
    // fetched there, are left to the loop behind it, which asks how many tokens a key stands for.
    hot_steps = max(count.plain - (Size::stages - 1), 0);
    __syncthreads();  // sync: `work` is written
  }
  const Pipeline<V> pipeline{p.prepared, work, ptx::shared_u32(shared + Size::stage_offset),
                             reinterpret_cast<StageExtras<V>*>(shared + Size::extras_offset)};
  SlotWalk walk(mask);
  for (int step = 0; step < Size::stages - 1; step++) pipeline.fetch_any(step, mask, walk);
  load_query<V>(p, work.query, shared + Size::query_offset, row_factor);
  __syncthreads();  // sync: the query tile and its factors are written

  WarpState<V> state;
  clear_state<V>(state);
  const float* lane_factor =
      row_factor + threadIdx.x / 32 * rows_per_warp<V> + threadIdx.x % 32 / 4;
  BiasedZero zero;
  ptx::hold(zero.registers, ptx::biased_zero);
#pragma unroll 1
  for (int step = 0; step < hot_steps; step++) {
    ptx::cp_async_wait<Size::stages - 2>();
    // sync: everyone's part of this stage has landed, and everyone has left the stage that the
    // next fetch overwrites
    __syncthreads();
    pipeline.fetch(step + Size::stages - 1, walk.next_listed());
    ptx::cp_async_commit();
    attend_slot<V, true>(query_tile, lane_factor, pipeline.tiles_of(step), pipeline.extras_of(step),
                         zero, state);
  }
  for (int step = max(hot_steps, Size::stages - 1); step < work.count.plain; step++) {
    for (int i = static_cast<int>(threadIdx.x); i < V::step_keys; i += Size::threads) {
      pipeline.extras_of(step).tokens[i] = 1;
    }
  }
#pragma unroll 1
  for (int step = hot_steps; step < work.count.total; step++) {
    ptx::cp_async_wait<Size::stages - 2>();
    __syncthreads();  // sync: as above
    pipeline.fetch_any(step + Size::stages - 1, mask, walk);
    attend_slot<V, false>(query_tile, lane_factor, pipeline.tiles_of(step),
                          pipeline.extras_of(step), zero, state);
  }

  ptx::cp_async_wait_all();
  __syncthreads();  // sync: the tiles are free to stage the output
  store_output<V>(p, work.query, state.rows, state.out, shared);
}

// Whether a target's tensor cores are used as the variant means it; others get an empty body.
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

// Two thread blocks of 128 threads, or four of 64, fill an SM's registers at 255 a thread.
template <class V>
__global__ void __launch_bounds__(TileSize<V>::threads, 256 / TileSize<V>::threads)
    sparse_attention(const AttentionParams p) {
  if constexpr (is_for_this_target<V>()) attend_tile<V>(p);
}

}  // namespace paro::kernels::sparse_attention
