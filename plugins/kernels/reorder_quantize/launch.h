// Launching stage 1.
#pragma once

#include "kernels/params.h"
#include "ptx/launch.cuh"

namespace paro::kernels::reorder_quantize {

// What decides which kernels a call takes.
struct Selection {
  Number source;  // of the inputs: f16 or bf16
  Number key;     // of the prepared keys: that of the inputs, s8 or s4
  Number value;   // of the prepared values, likewise
  int head_dim;   // 64 or 128
  int block_k;    // 64 or 128
  bool pooled;
};

// Loads the kernels that `launch_stage` would launch.
LaunchStatus load_stage(const Selection& selection);

// Prepares the key blocks of the geometry's units, then their summary blocks where pooled.
LaunchStatus launch_stage(const Selection& selection, const ReorderParams& params, Stream stream);

}  // namespace paro::kernels::reorder_quantize
