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

// Which body of a kernel a call takes: with fine summaries, or for smoothed QK, which has both in one.
enum class Body { plain, fine, smoothed };

// A compiled kernel.
struct Kernel {
  Selection selection;
  int threads;
  int blocks_an_sm;     // as in its __launch_bounds__
  size_t shared_bytes;  // of a thread block, without the words of the span mask
  size_t fine_bytes = 0;  // more of them for the steps of fine summaries
  int query_blocks = 1;   // of a tile, each with rows of the span mask
  bool is_persistent = false;  // a thread block computes tiles until none is left
  void (*function)(AttentionParams) = nullptr;  // null: no target of the build has its instructions
  DeviceSet* allowed;  // devices that let it have all the shared memory of a thread block
  // The kernel of calls with fine summaries.
  void (*fine_function)(AttentionParams) = nullptr;
  DeviceSet* fine_allowed = nullptr;
  // The mean correction in the same precision, by mma.sync: wgmma kernels have none of their own.
  void (*correction)(CorrectionParams) = nullptr;
  size_t correction_bytes = 0;  // of shared memory
  DeviceSet* correction_allowed = nullptr;
  // The kernel of smoothed calls, with or without fine summaries: 4-bit QK and integer PV alone.
  void (*smoothed_function)(AttentionParams) = nullptr;
  int smoothed_threads = 0;  // 0: smoothing has no such kernel
  int smoothed_blocks_an_sm = 0;
  size_t smoothed_bytes = 0;      // of shared memory, without the words of the span masks
  DeviceSet* smoothed_allowed = nullptr;
  void (*smoothed_correction)(CorrectionParams) = nullptr;
  size_t smoothed_correction_bytes = 0;
  DeviceSet* smoothed_correction_allowed = nullptr;

  // Query blocks of a thread block, each with rows of the span mask; of smoothed ones one.
  size_t mask_rows(Body body, bool fine) const {
    const int blocks = body == Body::smoothed ? 1 : query_blocks;
    return static_cast<size_t>(blocks) * (fine ? 2 : 1);
  }

  // `span_mask_words`: of one row. `fine`: with a second row for each query block, of the blocks that
  // have no coarse summary.
  size_t shared_bytes_with(int span_mask_words, Body body, bool fine) const {
    const size_t mask_bytes =
        mask_rows(body, fine) * sizeof(uint32_t) * static_cast<size_t>(span_mask_words);
    if (body == Body::smoothed) return smoothed_bytes + mask_bytes;
    return shared_bytes + (fine ? fine_bytes : 0) + mask_bytes;
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
LaunchStatus prepare(const Kernel& kernel, Body body);

// Query blocks of a thread block of the mean correction, and its threads.
constexpr int correction_tile_rows = 64;
constexpr int correction_threads = 128;

// The mean correction of a kernel that has one.
LaunchStatus prepare_correction(const Kernel& kernel, bool smoothed);
LaunchStatus launch_correction(const Kernel& kernel, bool smoothed, const CorrectionParams& params,
                               Stream stream);

// Launches `blocks` thread blocks. Run it after `prepare`.
LaunchStatus launch(const Kernel& kernel, Body body, const AttentionParams& params, unsigned blocks,
                    size_t shared_bytes, Stream stream);

}  // namespace paro::kernels::sparse_attention
