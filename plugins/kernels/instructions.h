// Which tensor instructions compute a call.
#pragma once

#include "paro/paro_c.h"

namespace paro::kernels {

// The rule, for a checked call on a GPU of this generation: wgmma on sm_90 where QK and PV have 8
// bits and the library holds code for sm_90a; otherwise mma.sync. Null where it is wgmma, else why
// not, in one clause. A caller that wants mma.sync on a Hopper asks for sm_100 (paro_launch.sm).
const char* reason_against_wgmma(const paro_attention& call, int32_t sm) noexcept;

// Whether the kernel of generation `sm` for this call has a body on a GPU of generation `here`:
// wgmma on sm_90 alone, 4-bit products before sm_90 alone, unpacked ones from it on.
bool has_kernel_of(const paro_attention& call, int32_t sm, int32_t here) noexcept;

}  // namespace paro::kernels
