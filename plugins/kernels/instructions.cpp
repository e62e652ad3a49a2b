#include "kernels/instructions.h"

#include "kernels/device.h"

namespace paro::kernels {

const char* reason_against_wgmma(const paro_attention& call, int32_t sm) noexcept {
  if (sm != 90) return "wgmma is an instruction of sm_90 alone";
  if (call.qk_bits != 8 || call.pv_bits != 8) return "the wgmma kernels take 8-bit QK and PV";
  if (!has_wgmma_code()) return "this library was built without the target 90a, which has wgmma";
  return nullptr;
}

bool has_kernel_of(const paro_attention& call, int32_t sm, int32_t here) noexcept {
  const bool four_bits = call.qk_bits == 4 || call.pv_bits == 4;
  if (four_bits && (sm < 90) != (here < 90)) return false;
  return reason_against_wgmma(call, sm) != nullptr || here == 90;
}

}  // namespace paro::kernels
