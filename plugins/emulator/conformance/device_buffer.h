// Memory that kernels use and the host reads back. In the emulator, it is host memory.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "ptx/launch.cuh"

namespace conformance {

#if !PARO_EMULATED
// Prints a failed call. The program then ends with a failure.
inline bool succeeded(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return true;
  std::printf("%s: %s\n", what, cudaGetErrorString(error));
  return false;
}
#endif

// `ok()` is false after any failed allocation or copy.
template <class T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(const std::vector<T>& content) : count_(content.size()) {
#if PARO_EMULATED
    const size_t bytes = (count_ * sizeof(T) + 255) / 256 * 256;
    data_ = static_cast<T*>(std::aligned_alloc(256, bytes));
    ok_ = data_ != nullptr;
    if (ok_) std::memcpy(data_, content.data(), count_ * sizeof(T));
#else
    ok_ = succeeded(cudaMalloc(&data_, count_ * sizeof(T)), "cudaMalloc") &&
          succeeded(cudaMemcpy(data_, content.data(), count_ * sizeof(T), cudaMemcpyHostToDevice),
                    "cudaMemcpy to the device");
#endif
  }
  ~DeviceBuffer() {
#if PARO_EMULATED
    std::free(data_);
#else
    cudaFree(data_);
#endif
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  T* get() const { return data_; }

  std::vector<T> read() {
    std::vector<T> content(count_);
#if PARO_EMULATED
    std::memcpy(content.data(), data_, count_ * sizeof(T));
#else
    ok_ = ok_ && succeeded(cudaDeviceSynchronize(), "kernel") &&
          succeeded(cudaMemcpy(content.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost),
                    "cudaMemcpy to the host");
#endif
    return content;
  }
  bool ok() const { return ok_; }

 private:
  size_t count_;
  T* data_ = nullptr;
  bool ok_ = false;
};

}  // namespace conformance
