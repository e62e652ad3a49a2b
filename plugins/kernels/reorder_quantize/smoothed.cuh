// Stage 1 of smoothed calls: keys are rotated and lose their block's mean before they become 4-bit
// codes with a scale for each key, and 8-bit codes with one for the block. Values are as ever.
// Kernels of their own leave the registers of the others as they are.
#pragma once

#include "kernels/reorder_quantize/kernel.cuh"
#include "kernels/rotate.cuh"

namespace paro::kernels::reorder_quantize {

template <int D, int BlockK>
struct SmoothedMemory {
  SharedMemory<D, BlockK> common;
  alignas(16) float mean[D];
};

// The scale of a key's 4-bit codes, rounded to bfloat16, and what codes are multiplied by. `largest`
// is the magnitude of the lane's channels; lanes of a row exchange theirs.
template <int D>
DEVICE_FN Scale scale_of_key(const Channels8& row) {
  uint32_t largest = largest_magnitude(row);
#pragma unroll
  for (int distance = 1; distance < D / 8; distance *= 2) {
    largest = max(largest, __shfl_xor_sync(~0u, largest, distance));
  }
  const float exact = scale_of(largest, levels_of(Number::s4)).scale;
  const float scale = floats_from_pair(pair_from_floats(exact, 0.0f, true), true).x;
  return {scale > 0.0f ? __frcp_rn(scale) : 0.0f, scale};
}

// One key block whose rows have arrived.
template <Number Source, int D, int BlockK>
DEVICE_FN void smooth_block(const ReorderParams& p, const Unit& unit, int block,
                            const TokenStream<D, BlockK>& stream, const Rotation& rotation,
                            const RawRows<D, BlockK>& raw, SmoothedMemory<D, BlockK>& shared) {
  using Map = TileMap<D, BlockK>;
  const Map& map = stream.map;
  const int64_t key_block = static_cast<int64_t>(unit.index) * p.geometry.key_blocks + block;
  Rows<D, BlockK> rows;
  precondition<Source, true>(stream, raw, shared.common, rows);
#pragma unroll
  for (Channels8& row : rows) rotate<D>(rotation, row);
  write_sums(map, rows, shared.common);
  __syncthreads();  // sync: sums are written
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < D) {
    const float mean = mean_of_channel(thread, stream.block_tokens(), shared.common);
    shared.mean[thread] = mean;
    p.means.key[key_block * D + thread] = mean;
  }
  __syncthreads();  // sync: the mean is written
  const Channels8 mean = read_channels(shared.mean + map.first_channel);
#pragma unroll
  for (int i = 0; i < Map::rows_per_thread; i++) {
    if (!stream.exists(0, i)) continue;  // absent tokens stay zeros
#pragma unroll
    for (int c = 0; c < 8; c++) rows[i].x[c] = __fadd_rn(rows[i].x[c], -mean.x[c]);
  }
  write_block_magnitude(rows, shared.common);
  const int64_t stored = first_prepared_block(p.geometry, unit.index) + block;
  uint8_t* const codes = tile_of<Side::key, Number::s4, D, BlockK>(p, stored);
#pragma unroll
  for (int i = 0; i < Map::rows_per_thread; i++) {
    const Scale scale = scale_of_key<D>(rows[i]);
    const int place = map.row(i) * D + map.first_channel;
    *reinterpret_cast<uint32_t*>(codes + place / 2) = codes_s4(scaled(rows[i], scale.inverse));
    if (map.first_channel == 0) {
      const int row = map.row(i);
      float* pair = p.smoothed.key_scale + key_block * BlockK * 2 + row / 2 * 4 + row % 2;
      pair[0] = scale.scale;
      pair[2] = -ptx::bias_value * scale.scale;
    }
  }
  __syncthreads();  // sync: magnitudes are written
  const Scale scale = scale_of(read_block_magnitude(shared.common), levels_of(Number::s8));
  if (thread == 0) p.smoothed.centred_scale[key_block] = scale.scale;
  store_key_codes<Number::s8, D, BlockK>(
      rows, scale.inverse,
      p.smoothed.centred + key_block * BlockK * D + map.first_row * D + map.first_channel);
  __syncthreads();  // sync: magnitudes, sums and the mean are free for their next use
}

template <Number Source, int D, int BlockK>
DEVICE_FN void smooth_run(const ReorderParams& p, SmoothedMemory<D, BlockK>& shared) {
  const Geometry& g = p.geometry;
  const Unit unit = unit_at(g, static_cast<int>(blockIdx.y));
  constexpr int blocks = run_tokens / BlockK;
  const int first = static_cast<int>(blockIdx.x) * blocks;
  const int end = min(first + blocks, g.key_blocks);
  auto stream = TokenStream<D, BlockK>::of(p, Side::key, unit, first, shared.common);
  const Rotation rotation =
      Rotation::of(p.plan, unit.kv_head, stream.map.first_channel, D);
  stream.read_tokens(0);
  write_affine(p, Side::key, unit.kv_head, shared.common);
  stream.fetch(0);
  stream.read_tokens(1);
  __syncthreads();  // sync: the affine is written
#pragma unroll 1
  for (int block = first; block < end; block++) {
    RawRows<D, BlockK> raw;
    stream.take(shared.common, raw);
    if (block + 1 < end) stream.fetch(1);
    stream.read_tokens(2);
    smooth_block<Source>(p, unit, block, stream, rotation, raw, shared);
    stream.advance();
  }
}

// As reorder_tokens, for smoothed keys.
template <Number Source, int D, int BlockK, bool Pooled>
__global__ void __launch_bounds__(TileMap<D, BlockK>::threads, blocks_an_sm)
    smooth_tokens(const ReorderParams p) {
  DYN_SMEM(memory);
  auto& shared = *reinterpret_cast<SmoothedMemory<D, BlockK>*>(memory);
  if (blockIdx.z == 0) {
    smooth_run<Source>(p, shared);
  } else {
    prepare_run_as<Side::value, Source, Pooled>(p, p.value_number, shared.common);
  }
}

// As quantize_means: those of keys have 8 bits, and an array of their own, which there is without
// pooling too. Without it, values (z 1) are not launched.
template <int D, int BlockK>
__global__ void __launch_bounds__(TileMap<D, BlockK>::threads, blocks_an_sm)
    quantize_smoothed_means(const ReorderParams p) {
  DYN_SMEM(memory);
  auto& shared = *reinterpret_cast<SharedMemory<D, BlockK>*>(memory);
  if (blockIdx.z == 0) {
    const Geometry& g = p.geometry;
    const Unit unit = unit_at(g, static_cast<int>(blockIdx.y));
    ReorderParams means = p;
    means.prepared.key = p.smoothed.mean;
    means.prepared.key_scale = p.smoothed.mean_scale;
    const int64_t block =
        static_cast<int64_t>(unit.index) * mean_blocks(g.key_blocks, BlockK) + blockIdx.x;
    quantize_summaries<Side::key, Number::s8>(means, unit, block, shared);
  } else {
    quantize_summaries_as<Side::value>(p, p.value_number, shared);
  }
}

}  // namespace paro::kernels::reorder_quantize
