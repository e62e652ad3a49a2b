// Stage 1. One thread block takes the keys or the values of one key block of one unit. It gathers
// them in the head's order, preconditions and quantizes them, and writes the tile that stage 2
// copies unchanged.
//
// Grid: x key block (or summary block), y unit, z 0 for keys and 1 for values.
#pragma once

#include "kernels/reorder_quantize/mean.cuh"
#include "kernels/reorder_quantize/store.cuh"

namespace paro::kernels::reorder_quantize {

template <Number Source, int D, int BlockK>
DEVICE_FN void store_block(const ReorderParams& p, Side side, const TileMap<D, BlockK>& map,
                           const Rows<D, BlockK>& rows, int64_t block, bool is_bfloat16,
                           SharedMemory<D, BlockK>& shared) {
  if (side == Side::key) {
    store_keys<Source>(p, map, rows, block, is_bfloat16, shared);
  } else {
    store_values<Source>(p, map, rows, block, is_bfloat16, shared);
  }
}

// Thread blocks that must fit an SM. Without a number ptxas spills registers to fit one more.
constexpr int blocks_an_sm = 1;

// From tokens to key blocks, and to their means where dropped blocks are pooled.
template <Number Source, int D, int BlockK>
__global__ void __launch_bounds__(threads, blocks_an_sm) reorder_tokens(const ReorderParams p) {
  DYN_SMEM(memory);
  auto& shared = *reinterpret_cast<SharedMemory<D, BlockK>*>(memory);
  const Geometry& g = p.geometry;
  const Side side = blockIdx.z == 0 ? Side::key : Side::value;
  const Unit unit = unit_at(g, static_cast<int>(blockIdx.y));
  const int block = static_cast<int>(blockIdx.x);
  const auto map = TileMap<D, BlockK>::of_thread();
  Rows<D, BlockK> rows;
  load_tokens<Source>(p, side, unit, block, map, rows);
  if (p.pooled) store_mean<Source>(p, side, unit, block, map, rows, shared);
  store_block<Source>(p, side, map, rows, first_prepared_block(g, unit.index) + block,
                      Source == Number::bf16, shared);
}

// From means to key blocks of summary tokens, which follow the unit's blocks of tokens.
template <int D, int BlockK>
__global__ void __launch_bounds__(threads, blocks_an_sm) quantize_means(const ReorderParams p) {
  DYN_SMEM(memory);
  auto& shared = *reinterpret_cast<SharedMemory<D, BlockK>*>(memory);
  const Geometry& g = p.geometry;
  const Side side = blockIdx.z == 0 ? Side::key : Side::value;
  const Unit unit = unit_at(g, static_cast<int>(blockIdx.y));
  const int summary_block = static_cast<int>(blockIdx.x);
  const auto map = TileMap<D, BlockK>::of_thread();
  Rows<D, BlockK> rows;
  load_means(p, side, unit, summary_block, map, rows);
  const int64_t stored = first_prepared_block(g, unit.index);
  const Number number = side == Side::key ? p.key_number : p.value_number;
  store_block<Number::f32>(p, side, map, rows, stored + g.key_blocks + summary_block,
                           number == Number::bf16, shared);
}

}  // namespace paro::kernels::reorder_quantize
