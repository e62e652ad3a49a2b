// A CUDA runtime without a GPU. The environment describes its devices: FAKE_SM, FAKE_DRIVER,
// FAKE_ERROR. As in CUDA, a failed call's error stays the thread's last error until it is asked
// for, and the limit of a kernel's dynamic shared memory is one for all threads of a device.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#define CUDART_VERSION 13000

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInsufficientDriver = 35,
  cudaErrorInvalidDeviceFunction = 98,
  cudaErrorNoDevice = 100
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct cudaFuncAttributes {
  size_t sharedSizeBytes;
};
struct dim3 {
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  unsigned x, y, z;
};
using cudaStream_t = struct CUstream_st*;

// What the tests look at and set.
namespace fake_cuda {

using Function = std::pair<int, const void*>;  // device, kernel

inline thread_local cudaError_t last_error = cudaSuccess;
inline thread_local int device = 3;
inline std::mutex lock;
inline std::map<Function, int> limits;    // of dynamic shared memory
inline std::map<Function, int> limited;   // how often
inline std::map<Function, int> launched;  // how often
inline std::map<Function, unsigned> blocks;  // of the last launch
inline std::map<int, int> counted;           // how often a device was asked for its SMs
inline std::set<const void*> absent;      // kernels without code for the devices

inline cudaError_t report(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

inline int from_environment(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? 0 : std::atoi(text);
}

inline int sm() {
  const int given = from_environment("FAKE_SM");
  return given == 0 ? 80 : given;
}

// Datasheets: sm_80 and sm_87 have 164 KB an SM, sm_90 to sm_110 228 KB, the others 100 KB.
inline int most_shared_bytes() {
  if (sm() == 80 || sm() == 87) return 163 << 10;
  return sm() >= 90 && sm() < 120 ? 227 << 10 : 99 << 10;
}

// Devices differ.
inline int processors(int device) { return 4 + device; }

// Other threads run, as they may at any time.
inline void yield() { std::this_thread::sleep_for(std::chrono::microseconds(200)); }

}  // namespace fake_cuda

inline cudaError_t cudaGetLastError() { return std::exchange(fake_cuda::last_error, cudaSuccess); }

inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorInvalidDeviceFunction: return "invalid device function";
    default: return "no CUDA-capable device is detected";
  }
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = fake_cuda::device;
  return fake_cuda::report(static_cast<cudaError_t>(fake_cuda::from_environment("FAKE_ERROR")));
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: {
      const std::lock_guard hold(fake_cuda::lock);
      fake_cuda::counted[device]++;
      *value = fake_cuda::processors(device);
      break;
    }
    case cudaDevAttrComputeCapabilityMajor: *value = fake_cuda::sm() / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = fake_cuda::sm() % 10; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = fake_cuda::most_shared_bytes(); break;
  }
  return cudaSuccess;
}

inline cudaError_t cudaDriverGetVersion(int* version) {
  *version = fake_cuda::from_environment("FAKE_DRIVER");
  return *version >= 0 ? cudaSuccess : fake_cuda::report(cudaErrorInvalidValue);
}

inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  const std::lock_guard hold(fake_cuda::lock);
  if (fake_cuda::absent.count(kernel) != 0) {
    return fake_cuda::report(cudaErrorInvalidDeviceFunction);
  }
  attributes->sharedSizeBytes = 0;
  return cudaSuccess;
}

inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int bytes) {
  {
    const std::lock_guard hold(fake_cuda::lock);
    if (fake_cuda::absent.count(kernel) != 0) {
      return fake_cuda::report(cudaErrorInvalidDeviceFunction);
    }
    if (bytes > fake_cuda::most_shared_bytes()) return fake_cuda::report(cudaErrorInvalidValue);
    fake_cuda::limits[{fake_cuda::device, kernel}] = bytes;
    fake_cuda::limited[{fake_cuda::device, kernel}]++;
  }
  fake_cuda::yield();
  return cudaSuccess;
}

inline cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3, void**,
                                    size_t shared_bytes, cudaStream_t) {
  const std::lock_guard hold(fake_cuda::lock);
  const fake_cuda::Function function{fake_cuda::device, kernel};
  const auto found = fake_cuda::limits.find(function);
  const int limit = found == fake_cuda::limits.end() ? 48 << 10 : found->second;
  if (fake_cuda::absent.count(kernel) != 0) {
    return fake_cuda::report(cudaErrorInvalidDeviceFunction);
  }
  if (shared_bytes > static_cast<size_t>(limit)) return fake_cuda::report(cudaErrorInvalidValue);
  fake_cuda::launched[function]++;
  fake_cuda::blocks[function] = grid.x;
  return cudaSuccess;
}
