// All steps of a tile, by a consumer warpgroup.
#pragma once

#include "kernels/sparse_attention/sm90/fine_step.cuh"

#if PARO_HAS_WGMMA

namespace paro::kernels::sparse_attention::sm90 {

// Until the producer ends the walk. `Fine`: with fine summaries, whose steps are the last.
template <class V, bool Fine>
DEVICE_FN void attend_steps(const Ring<V>& ring, const Turns<V>& turns, const Operands& operands,
                            const float* row_factors, RingPlace<V>& at, LoopState<V>& state) {
  int previous = at.slot;
  StepKind kind = ring.extras(at.slot).kind;
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
  if (previous != at.slot) {
    add_last_products(turns, operands, slot_offset<V>(previous), state);
    ring.release(previous);
  }
  if constexpr (Fine) {
    if (kind == StepKind::fine) attend_fine_steps(ring, turns, operands, row_factors, at, state);
  }
}

// From the first slot of a tile to the first of the next.
template <class V, bool Fine>
DEVICE_FN void attend(const Ring<V>& ring, const Turns<V>& turns, const Operands& operands,
                      const float* row_factors, RingPlace<V>& at, LoopState<V>& state) {
  clear_state(state);
  ring.wait_full(at);
  if constexpr (V::query_blocks > 1) {
    while (!ring.attends(at.slot, turns.warpgroup)) {
      ring.release(at.slot);
      at.advance();
      ring.wait_full(at);
    }
  }
  attend_steps<V, Fine>(ring, turns, operands, row_factors, at, state);
  ring.release(at.slot);  // the end
  at.advance();
}

}  // namespace paro::kernels::sparse_attention::sm90

#endif  // PARO_HAS_WGMMA
