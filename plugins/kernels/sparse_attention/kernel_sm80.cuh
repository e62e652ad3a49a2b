// Stage 2 for the mma.sync generations (sm_80 and later). One thread block computes one query block
// of one head: it walks the slots on its mask row, two stages of K and V in flight by cp.async, and
// scatters its rows.
//
// Grid: x, all (tile, sample) pairs, longest tiles of all samples first.
#pragma once

#include "kernels/sparse_attention/store_output.cuh"

namespace paro::kernels::sparse_attention {

// Which tile this thread block takes; false where its head is in another group of heads.
template <class V>
DEVICE_FN bool find_tile(const AttentionParams& p, QueryTile& q, const uint32_t*& mask_row) {
  const Geometry& g = p.geometry;
  const int first_sample = g.first_unit / g.kv_heads;
  const int samples = (g.first_unit + g.units - 1) / g.kv_heads - first_sample + 1;
  const int index = static_cast<int>(blockIdx.x) / samples;
  const int sample = first_sample + static_cast<int>(blockIdx.x) % samples;
  const int tiles = g.heads * g.query_blocks;
  const int bin = min(max(__ldg(p.plan.mask_bin + sample), 0), g.bins - 1);
  const int tile = clamp_index(
      __ldg(p.plan.tile_order + static_cast<int64_t>(bin) * tiles + index), tiles, "tile_order");
  q.head = tile / g.query_blocks;
  q.block = tile % g.query_blocks;
  const int kv_head = q.head / (g.heads / g.kv_heads);
  q.unit = {sample * g.kv_heads + kv_head - g.first_unit, sample, kv_head};
  if (q.unit.index < 0 || q.unit.index >= g.units) return false;
  q.length = length_of(g, p.plan, sample);
  q.order = order_of(g, p.plan, q.head);
  mask_row = reinterpret_cast<const uint32_t*>(p.plan.block_mask) +
             (static_cast<int64_t>(bin) * tiles + tile) * g.mask_words;
  return true;
}

// What accompanies a stage's tiles.
template <class V>
struct StageExtras {
  float key_scale;
  float padding[3];  // cp.async wants what follows on 16 bytes
  float value_scale[(TileSize<V>::value_scales + 3) / 4 * 4];
  uint8_t tokens[slot_keys];  // that each key stands for; written for slots that are not plain
};

// The slot's K and V, and what goes with them, on their way to one stage.
template <class V>
DEVICE_FN void fetch_slot(const PreparedKeys& keys, int64_t first_block, int block_shift, int slot,
                          uint32_t tiles, StageExtras<V>* extras) {
  using Size = TileSize<V>;
  static_assert(sizeof(StageExtras<V>) == Size::extras_bytes, "as laid out");
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t block = first_block + (slot >> block_shift);
  const int64_t stored = (first_block << block_shift) + slot;
  copy_tile<Size::key_row_bytes, slot_keys, Size::threads>(tiles,
                                                           keys.key + stored * Size::key_bytes);
  copy_tile<Size::value_row_bytes, Size::value_rows, Size::threads>(
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
DEVICE_FN void write_tokens(const MaskRow& mask, const Extent& extent, int slot, uint8_t* tokens) {
  const int column = static_cast<int>(threadIdx.x);
  if (column >= slot_keys) return;
  tokens[column] = static_cast<uint8_t>(token_count(mask, extent, slot, column));
}

// A warp's running result.
template <class V>
struct WarpState {
  RowState rows[row_tiles];
  float query_factor[row_tiles][2];
  Output<V> out;
};

// Products of a 16-row tile as floats. The bias is subtracted rather than left to cancel against
// the maximum: times a large factor its rounding would exceed the distance between codes of P.
template <class V>
PTX_FN void to_floats(const Accumulator<V::qk> (&scores)[key_tiles][4], float (&x)[key_tiles][4]) {
#pragma unroll
  for (int n = 0; n < key_tiles; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if constexpr (is_integer(V::qk)) {
        x[n][i] = ptx::float_from_biased(scores[n][i]);
      } else {
        x[n][i] = scores[n][i];
      }
    }
  }
}

// In a slot that is not plain: x becomes the logits, each with the logarithm of its key's tokens.
PTX_FN void weigh_keys(const uint8_t* tokens, float (&x)[key_tiles][4], float (&factor)[2]) {
#pragma unroll
  for (int n = 0; n < key_tiles; n++) {
#pragma unroll
    for (int column = 0; column < 2; column++) {
      const int count = tokens[n * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + column];
      const float weight = ptx::log2_approx(static_cast<float>(count));
#pragma unroll
      for (int row = 0; row < 2; row++) {
        float& value = x[n][2 * row + column];
        value = count == 0 ? lowest_logit : fmaf(value, factor[row], weight);
      }
    }
  }
  factor[0] = factor[1] = 1.0f;
}

// out = out * keep + P V * take.
template <class V>
PTX_FN void value_product(uint32_t value_tile, const float* value_scale, const BiasedZero& zero,
                          const Probabilities<V> (&p)[row_tiles],
                          const StepFactors (&factors)[row_tiles], Output<V>& out) {
  bool moved = false;
#pragma unroll
  for (int tile = 0; tile < row_tiles; tile++) {
    moved = moved || factors[tile].keep[0] != 1.0f || factors[tile].keep[1] != 1.0f;
  }
  if (__any_sync(~0u, moved)) {
#pragma unroll
    for (int tile = 0; tile < row_tiles; tile++) {
#pragma unroll
      for (int d = 0; d < V::head_dim / 8; d++) {
#pragma unroll
        for (int i = 0; i < 4; i++) out[tile][d][i] *= factors[tile].keep[i / 2];
      }
    }
  }
  const float block_scale = V::pv == Number::s8 ? value_scale[0] : 1.0f;
#pragma unroll
  for (uint32_t d = 0; d < V::head_dim / 8; d += 2) {
    if (d != 0 && d % 8 == 0) __syncwarp();
    ValueFragments<V> fragments;
    load_values<V>(value_tile, d, fragments);
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
      float2 scale{block_scale, block_scale};
      if constexpr (V::pv == Number::s4) {
        scale = *reinterpret_cast<const float2*>(value_scale + (d + half) * 8 + threadIdx.x % 4 * 2);
      }
#pragma unroll
      for (int tile = 0; tile < row_tiles; tile++) {
        float(&target)[4] = out[tile][d + half];
        if constexpr (is_integer(V::pv)) {
          int32_t c[4];
          multiply_values<V>(zero, c, p[tile], fragments.b[half]);
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const float weight = factors[tile].take[i / 2] * (i % 2 == 0 ? scale.x : scale.y);
            target[i] = fmaf(ptx::float_from_biased(c[i]), weight, target[i]);
          }
        } else {
          multiply_values<V>(zero, target, p[tile], fragments.b[half]);
        }
      }
    }
  }
}

// One slot: S, softmax, P V.
template <class V, bool plain>
PTX_FN void attend_slot(uint32_t query_tile, uint32_t tiles, const StageExtras<V>& extras,
                        const BiasedZero& zero, WarpState<V>& state) {
  Scores<V> scores;
  score_product<V>(query_tile, tiles, zero, scores);
  const float key_scale = is_integer(V::qk) ? extras.key_scale : 1.0f;
  Probabilities<V> p[row_tiles];
  StepFactors factors[row_tiles];
#pragma unroll
  for (int tile = 0; tile < row_tiles; tile++) {
    float factor[2] = {state.query_factor[tile][0] * key_scale,
                       state.query_factor[tile][1] * key_scale};
    float x[key_tiles][4];
    to_floats<V>(scores[tile], x);
    if constexpr (!plain) weigh_keys(extras.tokens, x, factor);
    factors[tile] = exponentiate<V>(x, factor, state.rows[tile]);
    p[tile] = pack_probabilities<V>(x, factors[tile], state.rows[tile]);
  }
  value_product<V>(tiles + TileSize<V>::key_bytes, extras.value_scale, zero, p, factors,
                   state.out);
}

template <class V>
PTX_FN void clear_state(const float* row_factor, WarpState<V>& state) {
  const uint32_t first_row = threadIdx.x / 32 * rows_per_warp + threadIdx.x % 32 / 4;
#pragma unroll
  for (uint32_t tile = 0; tile < row_tiles; tile++) {
#pragma unroll
    for (uint32_t row = 0; row < 2; row++) {
      state.rows[tile].maximum[row] = lowest_logit;
      state.rows[tile].sum[row] = 0.0f;
      state.query_factor[tile][row] = row_factor[first_row + tile * 16 + row * 8];
    }
#pragma unroll
    for (int d = 0; d < V::head_dim / 8; d++) {
#pragma unroll
      for (int i = 0; i < 4; i++) state.out[tile][d][i] = 0.0f;
    }
  }
}

// What the thread block works on, kept in shared memory: registers that no step of the hot loop
// needs would be spilled there.
struct TileWork {
  QueryTile query;
  Extent extent;
  SlotCount count;
};

// Fetches slots in the order of the walk, one stage after the other.
template <class V>
struct Pipeline {
  using Size = TileSize<V>;

  const PreparedKeys& keys;
  int64_t first_block;
  uint32_t tiles;
  StageExtras<V>* extras;

  __device__ __forceinline__ uint32_t tiles_of(int step) const {
    return tiles + static_cast<uint32_t>(step % Size::stages * Size::tile_bytes);
  }
  __device__ __forceinline__ StageExtras<V>& extras_of(int step) const {
    return extras[step % Size::stages];
  }
  __device__ __forceinline__ void fetch(int step, int slot, int block_shift) const {
    fetch_slot<V>(keys, first_block, block_shift, slot, tiles_of(step), &extras_of(step));
  }
  // Whatever comes next, or nothing after the last slot.
  __device__ __forceinline__ void fetch_any(int step, const TileWork& work, const MaskRow& mask,
                                            SlotWalk& walk) const {
    if (step < work.count.total) {
      const int slot = walk.next(work.extent);
      fetch(step, slot, work.extent.block_shift);
      write_tokens(mask, work.extent, slot, extras_of(step).tokens);
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
  const MaskRow mask{mask_words, mask_row_words(g.key_blocks, g.block_k)};
  int unit, hot_steps;
  {
    QueryTile q;
    const uint32_t* mask_row;
    if (!find_tile<V>(p, q, mask_row)) return;
    const Extent extent = extent_of(g, q.length);
    load_mask<Size::threads>(mask_row, extent, mask.word_count, mask_words);
    __syncthreads();  // sync: the mask row is written
    const SlotCount count = count_slots(mask, extent);
    if (threadIdx.x == 0) work = {q, extent, count};
    unit = q.unit.index;
    // A step of the hot loop, and the slot it fetches, are plain; so that the last plain slots,
    // fetched there, are left to the loop behind it, which asks how many tokens a key stands for.
    hot_steps = max(count.plain - (Size::stages - 1), 0);
    __syncthreads();  // sync: `work` is written
  }
  const Pipeline<V> pipeline{
      p.prepared, static_cast<int64_t>(unit) * (g.key_blocks + g.summary_blocks),
      ptx::shared_u32(shared + Size::stage_offset),
      reinterpret_cast<StageExtras<V>*>(shared + Size::extras_offset)};
  SlotWalk walk(mask);
  for (int step = 0; step < Size::stages - 1; step++) pipeline.fetch_any(step, work, mask, walk);
  load_query<V>(p, work.query, shared + Size::query_offset, row_factor);
  __syncthreads();  // sync: the query tile and its factors are written

  WarpState<V> state;
  clear_state<V>(row_factor, state);
  BiasedZero zero;
  ptx::hold(zero.registers, ptx::biased_zero);
  const int block_shift = work.extent.block_shift;
#pragma unroll 1
  for (int step = 0; step < hot_steps; step++) {
    ptx::cp_async_wait<Size::stages - 2>();
    // sync: everyone's part of this stage has landed, and everyone has left the stage that the
    // next fetch overwrites
    __syncthreads();
    pipeline.fetch(step + Size::stages - 1, walk.next_listed(), block_shift);
    ptx::cp_async_commit();
    attend_slot<V, true>(query_tile, pipeline.tiles_of(step), pipeline.extras_of(step), zero,
                         state);
  }
  for (int step = max(hot_steps, Size::stages - 1); step < work.count.plain; step++) {
    if (threadIdx.x < slot_keys) pipeline.extras_of(step).tokens[threadIdx.x] = 1;
  }
#pragma unroll 1
  for (int step = hot_steps; step < work.count.total; step++) {
    ptx::cp_async_wait<Size::stages - 2>();
    __syncthreads();  // sync: as above
    pipeline.fetch_any(step + Size::stages - 1, work, mask, walk);
    attend_slot<V, false>(query_tile, pipeline.tiles_of(step), pipeline.extras_of(step), zero,
                          state);
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
