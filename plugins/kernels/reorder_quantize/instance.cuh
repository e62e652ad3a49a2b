// Stage 1's launcher and all its kernels: small enough for one translation unit.
#pragma once

#include "kernels/reorder_quantize/kernel.cuh"
#include "kernels/reorder_quantize/launch.h"

namespace paro::kernels::reorder_quantize {

template <int D, int BlockK>
LaunchStatus launch_sized(const ReorderParams& p, Number source, Stream stream) {
  const Geometry& g = p.geometry;
  const auto shape = [&](int blocks) {
    return LaunchShape{dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(g.units), 2),
                       dim3(threads), sizeof(Shared<D, BlockK>), stream};
  };
  const LaunchStatus tokens =
      source == Number::bf16
          ? launch(reorder_tokens<Number::bf16, D, BlockK>, shape(g.key_blocks), p)
          : launch(reorder_tokens<Number::f16, D, BlockK>, shape(g.key_blocks), p);
  if (tokens != LaunchStatus::ok || !p.pooled) return tokens;
  return launch(quantize_means<D, BlockK>, shape(g.summary_blocks), p);
}

LaunchStatus launch_stage(const ReorderParams& p, Number source, int head_dim, Stream stream) {
  if (head_dim == 64) {
    return p.geometry.block_k == 64 ? launch_sized<64, 64>(p, source, stream)
                                    : launch_sized<64, 128>(p, source, stream);
  }
  return p.geometry.block_k == 64 ? launch_sized<128, 64>(p, source, stream)
                                  : launch_sized<128, 128>(p, source, stream);
}

}  // namespace paro::kernels::reorder_quantize
