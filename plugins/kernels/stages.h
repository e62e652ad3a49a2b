// The launches of a call: stage 1, what version 2 computes between the stages, stage 2.
#pragma once

#include "kernels/choice.h"
#include "kernels/params.h"
#include "kernels/reorder_quantize/launch.h"
#include "ptx/launch.cuh"

namespace paro::kernels {

// Of all units; a launch takes its own from `first_unit` and `units`.
Geometry geometry_of(const paro_attention& call, const Shape& shape);

reorder_quantize::Selection stage1_of(const paro_attention& call);

// Launches all stages for the units of the geometry.
LaunchStatus launch_stages(const paro_attention& call, const Choice& choice,
                           const Geometry& geometry, const Workspace& workspace, Stream stream);

}  // namespace paro::kernels
