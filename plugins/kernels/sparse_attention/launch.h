// Finding and launching the kernel of stage 2 for a call.
#pragma once

#include "kernels/sparse_attention/variant.h"
#include "ptx/launch.cuh"

namespace paro::kernels::sparse_attention {

// What a kernel multiplies by: mma.sync, which all generations have, or Hopper's warpgroup products.
enum class Instructions { mma_sync, wgmma };

struct Selection {
  Instructions instructions;
  int head_dim;
  int block_q;
  int step_keys;
  Number qk;
  Number pv;
  FourBit four_bit;
};

// A compiled variant, behind functions that need not know its type.
struct Kernel {
  int threads;
  size_t (*shared_bytes)(int mask_words);
  LaunchStatus (*allow)(size_t shared_bytes);
  LaunchStatus (*launch)(const AttentionParams& params, const LaunchShape& shape);
};

// The kernel for a selection with these number types. One translation unit a pair.
template <Number Qk, Number Pv>
Kernel kernel_of(const Selection& selection);

// The wgmma kernel for a selection. A translation unit of its own.
Kernel wgmma_kernel(const Selection& selection);

// Dispatches on instructions and number types of the selection.
Kernel find_kernel(const Selection& selection);

}  // namespace paro::kernels::sparse_attention
