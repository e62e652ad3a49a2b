// Included by the generated translation unit of the wgmma kernels.
#pragma once

#include "kernels/sparse_attention/kernel_sm90.cuh"
#include "kernels/sparse_attention/launch.h"

namespace paro::kernels::sparse_attention {

template <class V>
Kernel describe_wgmma() {
  using L = wgmma::Layout<V>;
  return {L::threads, &L::shared_bytes,
          [](size_t bytes) { return allow_shared_bytes(sparse_attention_wgmma<V>, bytes); },
          [](const AttentionParams& params, const LaunchShape& shape) {
            LaunchShape sharing = shape;
            sharing.blocks_an_sm = L::blocks_an_sm;
            return launch(sparse_attention_wgmma<V>, sharing, params);
          }};
}

template <int HeadDim>
Kernel sized_wgmma(const Selection& s) {
  if (s.block_q == 64) {
    return s.step_keys == 64 ? describe_wgmma<WgmmaVariant<HeadDim, 64, 64>>()
                             : describe_wgmma<WgmmaVariant<HeadDim, 64, 128>>();
  }
  return s.step_keys == 64 ? describe_wgmma<WgmmaVariant<HeadDim, 128, 64>>()
                           : describe_wgmma<WgmmaVariant<HeadDim, 128, 128>>();
}

}  // namespace paro::kernels::sparse_attention
