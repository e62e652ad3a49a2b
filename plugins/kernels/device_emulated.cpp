#include "common/error.h"
#include "kernels/device.h"

namespace paro::kernels {

const char* library_name() noexcept { return "paro-emulated " PARO_VERSION; }

paro_status current_sm(int32_t* sm) noexcept {
  *sm = 80;
  return PARO_OK;
}

// Fewer than the tests' calls have tiles, so that thread blocks compute several.
paro_status processor_count(int32_t* count) noexcept {
  *count = 3;
  return PARO_OK;
}

bool runs_any_sm() noexcept { return true; }

bool has_wgmma_code() noexcept { return true; }

const char* built_bits() noexcept { return ""; }

paro_status measure_peak(void*, double*) noexcept {
  return fail(PARO_UNSUPPORTED, "paro_measure_peak: expected a GPU or a CPU, got the emulator");
}

}  // namespace paro::kernels
