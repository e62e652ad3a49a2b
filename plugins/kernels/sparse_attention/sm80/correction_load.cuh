// The mean correction: its query tile of means, and the copies of a span's keys and values.
#pragma once

#include "kernels/rotate.cuh"
#include "kernels/sparse_attention/sm80/correction_memory.cuh"

namespace paro::kernels::sparse_attention::sm80 {

// A tile that stage 1 wrote swizzled is copied as it is.
template <int RowBytes, int Rows, int Threads>
DEVICE_FN void copy_prepared(TileLayout layout, uint32_t tile, const uint8_t* source) {
  if (layout == TileLayout::rows) {
    copy_tile<RowBytes, Rows, Threads>(tile, source);
    return;
  }
#pragma unroll
  for (uint32_t at = threadIdx.x * 16; at < RowBytes * Rows; at += Threads * 16) {
    ptx::cp_async_16(tile + at, source + at);
  }
}

// Fills the query tile with mean queries, as load_query does with queries. Smoothed ones are
// rotated.
template <class C, bool Smoothed>
DEVICE_FN void load_mean_queries(const CorrectionParams& p, const Unit& unit, int launch_head,
                                 int first_block, uint8_t* tile, float* row_factors) {
  constexpr int lanes = C::head_dim / 8, rows_per_pass = C::compute_threads / lanes;
  const Geometry& g = p.attention.geometry;
  const int thread = static_cast<int>(threadIdx.x), first_channel = thread % lanes * 8;
  const int runs = (g.tokens + correction_rows - 1) / correction_rows;
  const float* equalizer =
      affine_row(g, p.attention.plan, PARO_EQUALIZER, unit.kv_head, C::head_dim) + first_channel;
  Rotation rotation{};
  if constexpr (Smoothed) {
    rotation = Rotation::of(p.attention.plan, unit.kv_head, first_channel, C::head_dim);
  }
#pragma unroll 1
  for (int row = thread / lanes; row < C::tile_rows; row += rows_per_pass) {
    const int block = min(first_block + row, g.query_blocks - 1);
    const int64_t run =
        static_cast<int64_t>(launch_head) * runs + block * g.block_q / correction_rows;
    const float* source = p.mean_query + run * C::head_dim + first_channel;
    Channels8 x;
#pragma unroll
    for (int i = 0; i < 8; i++) x.x[i] = source[i];
    if constexpr (!is_integer(C::qk)) {
      const uint32_t offset = swizzled_offset<C::query_row_bytes>(
          static_cast<uint32_t>(row), static_cast<uint32_t>(first_channel / 8));
      *reinterpret_cast<uint4*>(tile + offset) = channels_to_16bit(x, C::qk == Number::bf16);
      if (first_channel == 0) row_factors[row] = p.attention.logit_scale;
    } else {
      uint32_t largest = 0;
#pragma unroll
      for (int i = 0; i < 8; i++) x.x[i] *= __ldg(equalizer + i);
      if constexpr (Smoothed) rotate<C::head_dim>(rotation, x);
      largest = largest_magnitude(x);
#pragma unroll
      for (int distance = 1; distance < lanes; distance *= 2) {
        largest = max(largest, __shfl_xor_sync(~0u, largest, distance));
      }
      const Scale scale = scale_of(largest, levels_of(C::qk));
      store_query_codes<C>(tile, row, first_channel, scaled(x, scale.inverse));
      if (first_channel == 0) row_factors[row] = scale.scale * p.attention.logit_scale;
    }
  }
}

// A span's tile of keys and their scale.
struct KeyTile {
  const uint8_t* codes;
  const float* scale;
};

// Of smoothed keys: those at 8 bits less their block's mean, or the means.
template <class C>
DEVICE_FN KeyTile smoothed_tile(const AttentionParams& p, int unit, int span) {
  const SmoothedKeys& keys = p.smoothed;
  const int count = p.geometry.key_blocks;
  const bool is_mean = span >= count;
  const int64_t tile =
      is_mean ? int64_t{unit} * mean_blocks(count, C::step_keys) + (span - count)
              : int64_t{unit} * count + span;
  return {(is_mean ? keys.mean : keys.centred) + tile * Layout<C>::key_bytes,
          (is_mean ? keys.mean_scale : keys.centred_scale) + tile};
}

// Starts the copies of a span's tiles and scales, as load_tiles does, from either layout.
template <class C, bool Smoothed>
DEVICE_FN void load_prepared(const CorrectionParams& p, const Extent& e, int unit, int span,
                             uint32_t key_tile, StepExtras<C>& extras) {
  using L = Layout<C>;
  const PreparedKeys& keys = p.attention.prepared;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t first_block = first_prepared_block(p.attention.geometry, unit);
  const int64_t block = first_block + (span >> e.block_shift);
  const int64_t stored = (first_block << e.block_shift) + span;
  KeyTile tile{keys.key + stored * L::key_bytes, keys.key_scale + block};
  if constexpr (Smoothed) tile = smoothed_tile<C>(p.attention, unit, span);
  copy_prepared<L::key_row_bytes, C::step_keys, C::compute_threads>(p.layout, key_tile,
                                                                    tile.codes);
  copy_prepared<L::value_row_bytes, L::value_tiles * L::value_rows, C::compute_threads>(
      p.layout, key_tile + static_cast<uint32_t>(offsetof(Slot<C>, value)),
      keys.value + stored * L::value_bytes);
  if (is_integer(C::qk) && thread == 0) {
    ptx::cp_async_small<4>(ptx::shared_u32(&extras.key_scale), tile.scale);
  }
  if (C::pv == Number::s8 && thread == 32) {
    ptx::cp_async_small<4>(ptx::shared_u32(extras.value_scale), keys.value_scale + block);
  }
  if (C::pv == Number::s4 && thread < C::head_dim / 4) {
    ptx::cp_async_16(ptx::shared_u32(extras.value_scale) + static_cast<uint32_t>(thread) * 16,
                     keys.value_scale + block * C::head_dim + thread * 4);
  }
}

}  // namespace paro::kernels::sparse_attention::sm80
