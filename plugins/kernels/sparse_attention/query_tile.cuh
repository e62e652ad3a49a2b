// Which query block of which head a thread block computes.
//
// Grid: x, all (tile, sample) pairs, longest tiles of all samples first.
#pragma once

#include "kernels/sparse_attention/load_query.cuh"

namespace paro::kernels::sparse_attention {

// False where the tile's head is in another group of heads.
DEVICE_FN bool find_tile(const AttentionParams& p, QueryTile& q, const uint32_t*& mask_row) {
  const Geometry& g = p.geometry;
  const int first_sample = g.first_unit / g.kv_heads;
  const int samples = (g.first_unit + g.units - 1) / g.kv_heads - first_sample + 1;
  const int index = static_cast<int>(blockIdx.x) / samples;
  const int sample = first_sample + static_cast<int>(blockIdx.x) % samples;
  const int tiles = g.heads * g.query_blocks;
  const int bin = min(max(__ldg(p.plan.mask_bin + sample), 0), g.bins - 1);
  const int tile = clamp_index(__ldg(p.plan.tile_order + static_cast<int64_t>(bin) * tiles + index),
                               tiles, "tile_order");
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

}  // namespace paro::kernels::sparse_attention
