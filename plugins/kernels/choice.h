// What a call and its launch decide: the generation, the kernels, how many heads at once.
#pragma once

#include "kernels/sparse_attention/launch.h"
#include "kernels/workspace.h"
#include "paro/paro_c.h"

namespace paro::kernels {

// Without the pointers of the call.
struct Choice {
  Shape shape;
  int32_t sm;
  int32_t units;                              // at once
  int32_t processors;                         // SMs of the device; 0 where nothing is launched
  const char* against_wgmma;                  // null where wgmma is used
  const sparse_attention::Kernel* kernel;     // of stage 2
  sparse_attention::Body body;                // of the kernel
  const sparse_attention::Kernel* corrector;  // whose mean correction the call takes
  size_t shared_bytes;                        // that the kernel needs
};

// Checks a call and a launch and chooses for them. `runs_here`: on this device, not only described.
paro_status choose(const paro_attention* call, const paro_launch* launch, bool runs_here,
                   Choice* choice);

}  // namespace paro::kernels
