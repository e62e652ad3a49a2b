// Launching stage 1.
#pragma once

#include "kernels/params.h"
#include "ptx/launch.cuh"

namespace paro::kernels::reorder_quantize {

// Brings the kernels that `launch_stage` would launch to the device.
LaunchStatus load_stage(Number source, int head_dim, int block_k, bool pooled);

// Token blocks of `units` units, then their summary blocks where pooled. `head_dim` is 64 or 128.
LaunchStatus launch_stage(const ReorderParams& params, Number source, int head_dim, Stream stream);

}  // namespace paro::kernels::reorder_quantize
