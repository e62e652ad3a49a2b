// All argument checks of the C ABI, shared by all backends.
#pragma once

#include <cstdint>

#include "paro/paro_c.h"

namespace paro {

// Sizes derived from a call. They are valid after check_block_grid.
struct Shape {
  int32_t query_blocks;  // NQ
  int32_t key_blocks;    // NK
  int32_t mask_words;    // W: words of PARO_MASK_WORD_BITS key blocks in one row of block_mask
  int32_t summary_blocks;  // G: blocks of block_k summary tokens; 0 unless pooled

  static Shape of(const paro_attention& call) noexcept;
};

// Checks the number of tokens and the block sizes, from which Shape::of computes.
paro_status check_block_grid(const paro_attention& call) noexcept;

// Checks sizes, types and attributes. Reads no pointer of the call.
paro_status check_shape(const paro_attention* call) noexcept;

// Checks that pointers are present and aligned to their element. Run it after check_shape.
paro_status check_pointers(const paro_attention& call) noexcept;

// Checks the values in the plan's tensors. Only for memory that the host can read; run it after
// check_pointers.
paro_status check_contents(const paro_attention& call) noexcept;

paro_status check_launch(const paro_launch* launch) noexcept;

}  // namespace paro
