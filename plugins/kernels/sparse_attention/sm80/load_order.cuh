// Where loads from shared memory wait for the instructions before them.
//
// At 128 channels the output and the scores fill the registers. The compiler moves loads ahead as
// far as it can, and then spills other registers to make room. A warp barrier, which costs one
// instruction or none, holds the loads back. Compiling every variant for every target showed which
// places leave least to spill in the hot loops (nvcc 13.0; sass/budget.json has the result).
#pragma once

#include "kernels/device_plan.cuh"
#include "kernels/sparse_attention/sm80/variant.h"

namespace paro::kernels::sparse_attention::sm80 {

// The target that is compiled, 0 for the host.
#if defined(__CUDA_ARCH__)
constexpr int compiled_sm = __CUDA_ARCH__ / 10;
#else
constexpr int compiled_sm = 0;
#endif
constexpr bool on_hopper = compiled_sm == 90;
constexpr bool on_sm_80 = compiled_sm == 80;
constexpr bool on_sm_86_or_89 = compiled_sm == 86 || compiled_sm == 89;

// Whether the 4-bit keys of a variant are residuals (smoothed_memory.cuh).
template <class V>
constexpr bool is_smoothed = V::qk == Number::s4 && requires { V::is_smoothed; };

template <class V>
struct LoadOrder {
  static constexpr bool full = V::head_dim == 128, two_blocks = V::query_blocks == 2;
  // 8-bit values in steps of 64 keys: a whole step's products wait in registers.
  static constexpr bool waits = full && V::pv == Number::s8 && V::step_keys == 64;
  // Two query blocks with keys of 4 or 16 bits.
  static constexpr bool uneven_pair =
      waits && two_blocks && V::qk != Number::s8 && !is_smoothed<V> && on_sm_86_or_89;
  // Whether loads wait for each 32 bytes of a query row, for S, and for the softmax of 16 rows.
  static constexpr bool by_depth = full && V::unpacks_keys;
  static constexpr bool by_scores = waits && !uneven_pair;
  static constexpr bool by_softmax = full;
  // Whether loads wait for S in steps of fine summaries, of 16 rows where the output has 32.
  static constexpr bool by_fine_scores =
      waits && V::rows_per_warp == 32 && !is_smoothed<V> &&
      (V::qk == Number::s8 || compiled_sm >= 90 ||
       (on_sm_86_or_89 && !two_blocks && !is_integer(V::qk)));
  // Whether the words of a mask row are in a register across the hot loop, for fine summaries to
  // find the mask by. Otherwise they are counted again from shared memory.
  static constexpr bool keeps_mask = !by_fine_scores || !two_blocks || on_hopper;
  // How many fragments of 8 channels of V are loaded at once.
  static constexpr uint32_t channel_fragments = [] {
    constexpr uint32_t all = V::head_dim / 8;
    if (!full) return all;
    if (V::step_keys == 128) return 8u;
    if (is_smoothed<V> && on_sm_80) return 2u;
    if (V::qk == Number::s8 && V::pv == Number::s4) return 8u;
    if (V::qk == Number::s8 && !is_integer(V::pv) && !two_blocks) return 8u;
    if (V::qk == Number::s4 && V::pv == Number::s8) {
      return on_hopper || (on_sm_80 && two_blocks) ? all : 8u;
    }
    return uneven_pair ? 8u : all;
  }();
  // The same in steps of fine summaries.
  static constexpr uint32_t fine_fragments = [] {
    constexpr uint32_t all = V::head_dim / 8;
    if (!full) return all;
    if (V::qk == Number::s4 && is_integer(V::pv)) return on_hopper ? all : 8u;
    if (V::qk != Number::s8 || V::step_keys == 128) return all;
    if (V::pv == Number::s4) return V::unpacks_values && !on_hopper ? 8u : all;
    return is_integer(V::pv) ? all : 8u;
  }();
};

DEVICE_FN void hold_loads_back(bool here) {
  if (here) __syncwarp();  // sync: no data; the compiler moves no load across it
}

}  // namespace paro::kernels::sparse_attention::sm80
