// Launching stage 1.
#pragma once

#include "kernels/params.h"
#include "ptx/launch.cuh"

namespace paro::kernels::reorder_quantize {

// What decides which kernels a call takes.
struct Selection {
  Number source;  // of the inputs: f16 or bf16
  int head_dim;   // 64 or 128
  int block_k;    // 64 or 128
  bool pooled;
  bool smoothed;
};

struct Kernel {
  void (*function)(ReorderParams);
  DeviceSet* allowed;  // devices that give it all their shared memory
};

struct Stage {
  Kernel tokens;
  Kernel means;
  int run_blocks;  // key blocks of a thread block of `tokens`
  int threads;
  size_t shared_bytes;
};

// The kernels of a source type and head_dim. The generated translation units instantiate it.
template <Number Source, int D>
Stage stage_of(const Selection& selection);

// Loads the kernels that `launch_stage` would launch.
LaunchStatus load_stage(const Selection& selection);

// Prepares the key blocks of the geometry's units, then their summary blocks where pooled.
LaunchStatus launch_stage(const Selection& selection, const ReorderParams& params, Stream stream);

}  // namespace paro::kernels::reorder_quantize
