// Routing for the host: means, estimate, choice. It writes the mask that stage 2 then reads.
#pragma once

#include "kernels/params.h"
#include "ptx/launch.cuh"

namespace paro::kernels::routing {

// `source`: type of the inputs.
LaunchStatus launch_stage(const RoutingParams& params, Number source, int head_dim, Stream stream);
LaunchStatus load_stage(Number source, int head_dim, int block_k);

}  // namespace paro::kernels::routing
