// Where loads from shared memory wait for the instructions before them.
//
// At 128 channels the output and the scores fill the registers. The compiler moves loads ahead as
// far as it can, and then spills other registers to make room. A warp barrier, which costs one
// instruction or none, holds the loads back. Compiling every variant for every target showed which
// places leave nothing to spill (nvcc 13.0; sass/budget.json has the result). One target differs in
// one variant.
#pragma once

#include "kernels/device_plan.cuh"
#include "kernels/sparse_attention/sm80/variant.h"

namespace paro::kernels::sparse_attention::sm80 {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
constexpr bool on_hopper = true;
#else
constexpr bool on_hopper = false;
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 800
constexpr bool on_sm_80 = true;
#else
constexpr bool on_sm_80 = false;
#endif

// Whether the 4-bit keys of a variant are residuals (smoothed_memory.cuh).
template <class V>
constexpr bool is_smoothed = V::qk == Number::s4 && requires { V::is_smoothed; };

template <class V>
struct LoadOrder {
  static constexpr bool full = V::head_dim == 128;
  // Whether loads wait for each 32 bytes of a query row, for S, and for the softmax of 16 rows.
  static constexpr bool by_depth = full && V::unpacks_keys;
  static constexpr bool by_scores = full && V::pv == Number::s8 && V::step_keys == 64;
  static constexpr bool by_softmax = full;
  // Whether loads wait for S in steps of fine summaries, of 16 rows where the output has 32.
  static constexpr bool by_fine_scores =
      by_scores && V::qk == Number::s8 && V::rows_per_warp == 32;
  // Whether the words of a mask row are in a register across the hot loop, for fine summaries to
  // find the mask by. Otherwise they are counted again from shared memory.
  static constexpr bool keeps_mask = !by_fine_scores || V::query_blocks == 1 || on_hopper;
  // How many fragments of 8 channels of V are loaded at once.
  static constexpr uint32_t channel_fragments =
      is_smoothed<V> && full && V::step_keys == 64 && on_sm_80 ? 2
      : full && (V::step_keys == 128 || (V::qk == Number::s8 && V::pv == Number::s4) ||
               (V::qk == Number::s4 && V::pv == Number::s8 && !on_hopper))
          ? 8
          : V::head_dim / 8;
};

DEVICE_FN void hold_loads_back(bool here) {
  if (here) __syncwarp();  // sync: no data; the compiler moves no load across it
}

}  // namespace paro::kernels::sparse_attention::sm80
