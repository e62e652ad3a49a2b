#include <cuda_runtime.h>

#include "common/error.h"
#include "kernels/device.h"

namespace paro::kernels {

const char* library_name() noexcept { return "paro-cuda " PARO_VERSION; }

paro_status current_sm(int32_t* sm) noexcept {
  int device = 0, major = 0, minor = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  }
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  }
  if (error != cudaSuccess) {
    (void)cudaGetLastError();
    return fail(PARO_NO_DEVICE, "device: expected a usable GPU, CUDA says: %s",
                cudaGetErrorString(error));
  }
  *sm = 10 * major + minor;
  return PARO_OK;
}

}  // namespace paro::kernels
