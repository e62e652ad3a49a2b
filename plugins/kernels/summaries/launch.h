// Launches of what version 2 prepares in addition to stage 1: fine summaries and mean queries.
#pragma once

#include "kernels/params.h"
#include "ptx/launch.cuh"

namespace paro::kernels::summaries {

// Groups of fine summaries of all key blocks of the launch's units. `source`: type of the inputs.
LaunchStatus launch_fine_groups(const FineParams& params, Number source, int head_dim,
                                Stream stream);
LaunchStatus load_fine_groups(Number source, int head_dim, int block_k);

// Means of runs of 128 query rows: `target` [heads of the launch, runs, D]. `rounded`: to the
// inputs' type.
LaunchStatus launch_correction_queries(const Geometry& geometry, const Plan& plan,
                                       const void* query, float* target, bool rounded,
                                       Number source, int head_dim, Stream stream);
LaunchStatus load_correction_queries(Number source, int head_dim);

// Means of runs of 16 query rows: `target` [heads of the launch, rows, D].
LaunchStatus launch_routing_queries(const Geometry& geometry, const Plan& plan, const void* query,
                                    uint16_t* target, int rows, Number source, int head_dim,
                                    Stream stream);
LaunchStatus load_routing_queries(Number source, int head_dim);

}  // namespace paro::kernels::summaries
