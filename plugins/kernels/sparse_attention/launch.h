// Stage 2 for the host: which kernels exist, how one is chosen, and how it is launched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/params.h"
#include "ptx/launch.cuh"

namespace paro::kernels::sparse_attention {

// Shared memory of an SM of a generation, from the CUDA programming guide's table of technical
// specifications. One that is not known there has the least.
constexpr size_t shared_bytes_an_sm(int sm) {
  if (sm == 80 || sm == 87) return 164 * 1024;
  if (sm >= 90 && sm < 120) return 228 * 1024;
  return 100 * 1024;
}

// What a thread block can have of it: an SM reserves 1 KB for each.
constexpr size_t shared_bytes_a_block(int sm) { return shared_bytes_an_sm(sm) - 1024; }
constexpr size_t least_shared_bytes_a_block = shared_bytes_a_block(86);

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

// A compiled kernel.
struct Kernel {
  Selection selection;
  int threads;
  int blocks_an_sm;     // as in its __launch_bounds__
  size_t shared_bytes;  // of a thread block, without the words of the span mask
  void (*function)(AttentionParams) = nullptr;  // null: no target of the build has its instructions
  DeviceSet* allowed;  // devices that let it have all the shared memory of a thread block

  size_t shared_bytes_with(int span_mask_words) const {
    return shared_bytes + sizeof(uint32_t) * static_cast<size_t>(span_mask_words);
  }
};

// The mma.sync kernels of one pair of number types. instances.cmake writes the translation units.
template <Number Qk, Number Pv, FourBit Four>
std::span<const Kernel> mma_sync_kernels();

// The wgmma kernels, which have a translation unit of their own.
std::span<const Kernel> wgmma_kernels();

// The kernel of a selection, or null where there is none.
const Kernel* find_kernel(const Selection& selection);

// Loads the kernel on the current device and gives it what a launch needs there.
LaunchStatus prepare(const Kernel& kernel);

// Launches `blocks` thread blocks. Run it after `prepare`.
LaunchStatus launch(const Kernel& kernel, const AttentionParams& params, unsigned blocks,
                    size_t shared_bytes, Stream stream);

}  // namespace paro::kernels::sparse_attention
