// Included by the generated translation units, one for each pair of number types (CMakeLists.txt).
#pragma once

#include "kernels/sparse_attention/kernel_sm80.cuh"
#include "kernels/sparse_attention/launch.h"

namespace paro::kernels::sparse_attention {

template <class V>
Kernel describe_variant() {
  return {TileSize<V>::threads, &TileSize<V>::shared_bytes,
          [](size_t bytes) { return allow_shared_bytes(sparse_attention<V>, bytes); },
          [](const AttentionParams& params, const LaunchShape& shape) {
            return launch(sparse_attention<V>, shape, params);
          }};
}

template <int HeadDim, int BlockQ, Number Qk, Number Pv, FourBit Four>
Kernel stepped_variant(const Selection& s) {
  if constexpr (is_integer(Pv)) {
    if (s.step_keys == 128) return describe_variant<Variant<HeadDim, BlockQ, 128, Qk, Pv, Four>>();
  }
  return describe_variant<Variant<HeadDim, BlockQ, 64, Qk, Pv, Four>>();
}

template <Number Qk, Number Pv, FourBit Four>
Kernel sized_variant(const Selection& s) {
  if (s.head_dim == 64) {
    return s.block_q == 64 ? stepped_variant<64, 64, Qk, Pv, Four>(s)
                           : stepped_variant<64, 128, Qk, Pv, Four>(s);
  }
  return s.block_q == 64 ? stepped_variant<128, 64, Qk, Pv, Four>(s)
                         : stepped_variant<128, 128, Qk, Pv, Four>(s);
}

template <Number Qk, Number Pv>
Kernel kernel_of(const Selection& s) {
  // Without 4-bit operands there is one variant for all targets.
  if constexpr (Qk == Number::s4 || Pv == Number::s4) {
    if (s.four_bit == FourBit::unpacked) return sized_variant<Qk, Pv, FourBit::unpacked>(s);
  }
  return sized_variant<Qk, Pv, FourBit::native>(s);
}

}  // namespace paro::kernels::sparse_attention
