// The mean correction: its variant, shared memory, and the masks of a lane's rows.
#pragma once

#include "kernels/sparse_attention/sm80/fine_step.cuh"

namespace paro::kernels::sparse_attention::sm80 {

// 16 rows a warp leave registers for two outputs.
template <int HeadDim, int StepKeys, Number Qk, Number Pv, FourBit Four>
struct CorrectionVariant : Variant<HeadDim, 64, StepKeys, Qk, Pv, Four> {
  static constexpr int rows_per_warp = 16;
  // A row is a query block, and masks are the lanes' own.
  static constexpr int tile_rows = 64, query_blocks = 1;
  static constexpr int compute_threads = tile_rows / rows_per_warp * 32;
};

template <class C>
struct alignas(16) CorrectionMemory {
  static constexpr int fine_slots = fine_slots_in<C>(Layout<C>::slots * sizeof(Slot<C>));

  uint8_t query[Layout<C>::query_bytes];
  Slot<C> slots[Layout<C>::slots];
  float row_factors[C::tile_rows];
  StepExtras<C> extras[Layout<C>::slots];
  FineExtras<1> fine[fine_slots];
};

// The mask rows of the two query blocks of a lane; null where there is no such block.
struct LaneMasks {
  const uint32_t* exact[2];
  const uint32_t* fine[2];

  __device__ __forceinline__ uint32_t exact_word(int row, int index) const {
    return exact[row] == nullptr ? 0u : __ldg(exact[row] + index);
  }
  // Fine blocks, which are not exact.
  __device__ __forceinline__ uint32_t fine_word(int row, int index) const {
    return fine[row] == nullptr ? 0u : __ldg(fine[row] + index) & ~exact_word(row, index);
  }
};

}  // namespace paro::kernels::sparse_attention::sm80
