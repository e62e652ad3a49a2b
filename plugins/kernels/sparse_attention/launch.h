// Stage 2 for the host: which kernels exist, how one is chosen, and how it is launched.
#pragma once

#include <cstddef>
#include <span>

#include "kernels/params.h"
#include "ptx/launch.cuh"

namespace paro::kernels::sparse_attention {

// The matrix instructions of a kernel: mma.sync, which all generations have, or Hopper's wgmma.
enum class Instructions { mma_sync, wgmma };

// What distinguishes one kernel from the others.
struct Selection {
  Instructions instructions;
  int head_dim;
  int block_q;
  int span_keys;
  Number qk;
  Number pv;
  FourBit four_bit;  // native unless QK or PV has 4 bits

  bool operator==(const Selection&) const = default;
};

// A compiled kernel. The functions know its type, so that the caller does not have to.
struct Kernel {
  Selection selection;
  int threads;
  size_t (*shared_bytes)(int span_mask_words);
  LaunchStatus (*allow)(size_t shared_bytes);
  LaunchStatus (*launch)(const AttentionParams& params, const LaunchShape& shape);
};

// The mma.sync kernels of one pair of number types. instances.cmake writes the translation units.
template <Number Qk, Number Pv>
std::span<const Kernel> mma_sync_kernels();

// The wgmma kernels, which have a translation unit of their own.
std::span<const Kernel> wgmma_kernels();

// The kernel of a selection, or null where there is none.
const Kernel* find_kernel(const Selection& selection);

}  // namespace paro::kernels::sparse_attention
