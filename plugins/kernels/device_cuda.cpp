#include <cuda_runtime.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "common/error.h"
#include "kernels/device.h"

namespace paro::kernels {
namespace {

// Whether such a GPU runs machine code for a target, a number and nvcc's letter for its kind: the
// code of the same generation, for it or an older member; "a" is for this one GPU alone.
bool runs_code(int32_t sm, long target, char kind) {
  return kind == 'a' ? sm == target : sm / 10 == target / 10 && sm >= target;
}

// Whether this library has code that such a GPU runs: machine code, or PTX that is not newer than
// it. PTX with a letter is no more portable than machine code.
bool is_built_for(int32_t sm) {
  const char* rest = PARO_CUDA_TARGETS;  // such as "80,90a,120f"
  while (*rest != '\0') {
    char* end = nullptr;
    const long target = std::strtol(rest, &end, 10);
    if (runs_code(sm, target, *end)) return true;
    const size_t length = std::strcspn(rest, ",");
    rest += rest[length] == ',' ? length + 1 : length;
  }
  char* end = nullptr;
  const long ptx = std::strtol(PARO_CUDA_PTX, &end, 10);  // 0 where there is none
  return ptx != 0 && (*end == '\0' ? sm >= ptx : runs_code(sm, ptx, *end));
}

paro_status no_device(cudaError_t error) {
  int driver = 0;
  const bool has_version = cudaDriverGetVersion(&driver) == cudaSuccess;
  (void)cudaGetLastError();  // else the thread's next caller of CUDA would find it
  if (error != cudaErrorInsufficientDriver || !has_version) {
    return fail(PARO_NO_DEVICE, "device: expected a usable GPU, CUDA says: %s",
                cudaGetErrorString(error));
  }
  if (driver == 0) {
    return fail(PARO_NO_DEVICE, "driver: expected NVIDIA's, of CUDA %d.0 or later, found none",
                CUDART_VERSION / 1000);
  }
  return fail(PARO_NO_DEVICE,
              "driver: expected one of CUDA %d.0 or later, got one of CUDA %d.%d; update it",
              CUDART_VERSION / 1000, driver / 1000, driver % 1000 / 10);
}

}  // namespace

// The CUDA that the library is built for: paro_trt.nvidia holds it against the driver's.
const char* library_name() noexcept {
  static const auto name = [] {
    std::array<char, 64> text{};
    std::snprintf(text.data(), text.size(), "paro-cuda %s, CUDA %d.%d", PARO_VERSION,
                  CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    return text;
  }();
  return name.data();
}

bool runs_any_sm() noexcept { return false; }

bool has_wgmma_code() noexcept { return std::strstr(PARO_CUDA_TARGETS, "90a") != nullptr; }

const char* built_bits() noexcept { return PARO_CUDA_BITS; }

paro_status current_sm(int32_t* sm) noexcept {
  int device = 0, major = 0, minor = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  }
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  }
  if (error != cudaSuccess) return no_device(error);
  const int32_t found = 10 * major + minor;
  // What is older than any kernel is refused by the caller, in its own words.
  if (found >= 80 && !is_built_for(found)) {
    return fail(PARO_UNSUPPORTED,
                "sm: expected a GPU that this library has code for (sm_%s, PTX of '%s'), device %d "
                "is sm_%d; build it with -DPARO_CUDA_TARGETS=%d",
                PARO_CUDA_TARGETS, PARO_CUDA_PTX, device, found, found);
  }
  *sm = found;
  return PARO_OK;
}

// Asked once for each of the first 64 devices; 0 is not known yet.
paro_status processor_count(int32_t* count) noexcept {
  static std::array<std::atomic<int32_t>, 64> known{};
  int device = 0, found = 0;
  cudaError_t error = cudaGetDevice(&device);
  const auto place = static_cast<size_t>(device);
  if (error == cudaSuccess && place < known.size()) found = known[place].load();
  if (error == cudaSuccess && found == 0) {
    error = cudaDeviceGetAttribute(&found, cudaDevAttrMultiProcessorCount, device);
    if (error == cudaSuccess && place < known.size()) known[place].store(found);
  }
  if (error != cudaSuccess) return no_device(error);
  *count = found;
  return PARO_OK;
}

}  // namespace paro::kernels
