// Launching stage 1.
#pragma once

#include "kernels/params.h"
#include "ptx/launch.cuh"

namespace paro::kernels::reorder_quantize {

// Loads the kernels that `launch_stage` would launch.
LaunchStatus load_stage(Number source, int head_dim, int block_k, bool pooled);

// Prepares the key blocks of the geometry's units, then their summary blocks where pooled.
// `head_dim` is 64 or 128.
LaunchStatus launch_stage(const ReorderParams& params, Number source, int head_dim, Stream stream);

}  // namespace paro::kernels::reorder_quantize
