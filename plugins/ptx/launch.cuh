// Launching a kernel on a GPU or in the emulator, with the same host code. Nothing here needs nvcc:
// tests compile it against a runtime of their own.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#if PARO_EMULATED
#include <cstdio>
#include <exception>

#include "emulator/cuda_emulator.h"
#else
#include <cuda_runtime.h>
#endif

namespace paro {

#if PARO_EMULATED
using Stream = void*;
#else
using Stream = cudaStream_t;
#endif

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  Stream stream = nullptr;
  unsigned blocks_an_sm = 1;  // that must fit, as in __launch_bounds__; for the emulator alone
};

enum class LaunchStatus { ok, failed };

// Why the thread's last failed launch failed: CUDA's words or the emulator's diagnosis.
inline char* last_launch_message() {
  thread_local char message[4096] = "";
  return message;
}
constexpr size_t launch_message_bytes = 4096;

// Devices on which something was done. Those past the first 64 are never remembered, so that it is
// done there each time.
class DeviceSet {
 public:
  bool contains(int device) const noexcept {
    return device < capacity && (bits_.load(std::memory_order_acquire) >> device & 1) != 0;
  }
  void insert(int device) noexcept {
    if (device < capacity) bits_.fetch_or(uint64_t{1} << device, std::memory_order_release);
  }

 private:
  static constexpr int capacity = 64;
  std::atomic<uint64_t> bits_{0};
};

#if PARO_EMULATED

template <class... Parameters>
LaunchStatus allow_all_shared_bytes(void (*kernel)(Parameters...), DeviceSet&) {
  emulator::set_max_shared_bytes(reinterpret_cast<const void*>(kernel),
                                 emulator::largest_shared_bytes);
  return LaunchStatus::ok;
}

template <class... Parameters>
LaunchStatus load_kernel(void (*)(Parameters...)) {
  return LaunchStatus::ok;
}

// Runs to completion; the stream is ignored.
template <class... Parameters>
LaunchStatus launch(void (*kernel)(Parameters...), const LaunchShape& shape,
                    const std::type_identity_t<Parameters>&... arguments) {
  try {
    emulator::launch(kernel, {shape.grid, shape.block, shape.shared_bytes, shape.blocks_an_sm},
                     arguments...);
    return LaunchStatus::ok;
  } catch (const std::exception& error) {
    std::snprintf(last_launch_message(), launch_message_bytes, "%s", error.what());
    std::fprintf(stderr, "%s\n", error.what());
    return LaunchStatus::failed;
  }
}

#else

namespace detail {
// CUDA also keeps a failed call's error for the thread's next cudaGetLastError, whoever asks. It is
// taken back here: our caller gets it as a status.
inline LaunchStatus status_of(cudaError_t error) {
  if (error == cudaSuccess) return LaunchStatus::ok;
  (void)cudaGetLastError();
  const char* text = cudaGetErrorString(error);
  size_t length = 0;
  while (text[length] != '\0' && length + 1 < launch_message_bytes) {
    last_launch_message()[length] = text[length];
    length++;
  }
  last_launch_message()[length] = '\0';
  return LaunchStatus::failed;
}
}  // namespace detail

// CUDA loads a kernel when it is first used, which may allocate and wait: this is a use.
template <class... Parameters>
LaunchStatus load_kernel(void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes;
  return detail::status_of(
      cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)));
}

// Lets the kernel have all the dynamic shared memory that the current device gives a thread block,
// where it would otherwise have 48 KB; it also loads the kernel. The limit is one for all threads
// and contexts of a device. It is therefore a constant and set once: a limit of each call's own
// size would refuse the launch of a thread whose limit another thread has just lowered.
// `allowed`: the kernel's own.
template <class... Parameters>
LaunchStatus allow_all_shared_bytes(void (*kernel)(Parameters...), DeviceSet& allowed) {
  const void* const function = reinterpret_cast<const void*>(kernel);
  int device = 0, most = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess && allowed.contains(device)) return LaunchStatus::ok;
  cudaFuncAttributes attributes{};
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, function);
  if (error == cudaSuccess) {
    error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 most - static_cast<int>(attributes.sharedSizeBytes));
  }
  if (error == cudaSuccess) allowed.insert(device);
  return detail::status_of(error);
}

// Asynchronous: `ok` says that the launch was accepted. The launch call itself says so; the
// thread's last error may be of anything else.
template <class... Parameters>
LaunchStatus launch(void (*kernel)(Parameters...), const LaunchShape& shape,
                    const std::type_identity_t<Parameters>&... arguments) {
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))..., nullptr};
  return detail::status_of(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), shape.grid,
                                            shape.block, pointers, shape.shared_bytes,
                                            shape.stream));
}

#endif

}  // namespace paro
