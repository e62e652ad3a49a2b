// Where loads from shared memory wait for what comes before them.
//
// At 128 channels output and scores fill the registers. The compiler moves loads ahead as far as it
// can, and then spills others for them; a warp barrier, an instruction or none, holds them back.
// Which places leave nothing to spill was found by compiling every variant for every target (nvcc
// 13.0; sass/budget.json has the result); one target differs in one variant.
#pragma once

#include "kernels/device_plan.cuh"
#include "kernels/sparse_attention/variant.h"

namespace paro::kernels::sparse_attention {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
constexpr bool on_hopper = true;
#else
constexpr bool on_hopper = false;
#endif

template <class V>
struct LoadOrder {
  static constexpr bool full = V::head_dim == 128;
  // Loads behind each 32 bytes of a query row, behind S, and behind the softmax of a row tile.
  static constexpr bool by_query_step = full && V::unpacks_keys;
  static constexpr bool by_scores = full && V::pv == Number::s8 && V::step_keys == 64;
  static constexpr bool by_softmax = full;
  // Values of so many 8-channel tiles are loaded at once.
  static constexpr uint32_t value_tiles =
      full && (V::step_keys == 128 || (V::qk == Number::s8 && V::pv == Number::s4) ||
               (V::qk == Number::s4 && V::pv == Number::s8 && !on_hopper))
          ? 8
          : V::head_dim / 8;
};

DEVICE_FN void hold_loads_back(bool here) {
  if (here) __syncwarp();
}

}  // namespace paro::kernels::sparse_attention
