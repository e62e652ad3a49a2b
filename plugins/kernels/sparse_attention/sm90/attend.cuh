// All steps of a consumer warpgroup.
#pragma once

#include "kernels/sparse_attention/sm90/fine_step.cuh"

#if PARO_HAS_WGMMA

namespace paro::kernels::sparse_attention::sm90 {

// Until the producer ends the walk. `Fine`: with fine summaries, whose steps are the last.
template <class V, bool Fine>
DEVICE_FN void attend(const Ring<V>& ring, const float* row_factors, LoopState<V>& state) {
  // The shuffle tells the compiler that the value is uniform: descriptors are in uniform registers.
  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / warpgroup_threads, 0);
  const Turns<V> turns{warpgroup};
  const Operands operands = operands_of(ring, warpgroup);
  clear_state(state);
  RingPlace<V> at;
  ring.wait_full(at);
  if constexpr (V::query_blocks > 1) {
    while (!ring.attends(at.slot, warpgroup)) {
      ring.release(at.slot);
      at.advance();
      ring.wait_full(at);
    }
  }
  int previous = at.slot;
  StepKind kind = ring.extras(at.slot).kind;
  if (kind == StepKind::end) return;
  turns.begin();
  const auto advance = [&] {
    advance_step<V>(ring, turns, operands, at, previous, state);
    kind = ring.extras(at.slot).kind;
  };
#pragma unroll 1
  while (kind == StepKind::plain) {
    attend_step<V, true>(ring, turns, operands, row_factors, at.slot, previous, state);
    advance();
  }
#pragma unroll 1
  while (kind == StepKind::weighed) {
    attend_step<V, false>(ring, turns, operands, row_factors, at.slot, previous, state);
    advance();
  }
  const bool has_fine = Fine && kind == StepKind::fine;
  const bool pends = previous != at.slot;
  if (pends || (!Fine && V::query_blocks == 1)) {
    add_last_products(turns, operands, slot_offset<V>(previous), has_fine, state);
  }
  if constexpr (Fine) {
    if (!has_fine) return;
    if (pends) ring.release(previous);
    attend_fine_steps(ring, turns, operands, row_factors, at, state);
  }
}

}  // namespace paro::kernels::sparse_attention::sm90

#endif  // PARO_HAS_WGMMA
