// Launches of what a smoothed call computes between the stages.
#pragma once

#include "kernels/params.h"
#include "ptx/launch.cuh"

namespace paro::kernels::smoothing {

// Mean queries, then biases of the key blocks on the mask. `source`: type of the inputs.
LaunchStatus launch_stage(const SmoothingParams& params, Number source, int head_dim,
                          Stream stream);
LaunchStatus load_stage(Number source, int head_dim, int block_q, int block_k);

}  // namespace paro::kernels::smoothing
