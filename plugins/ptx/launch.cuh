// Launching a kernel on a GPU or in the emulator, with the same host code.
#pragma once

#include <cstddef>

#include "ptx/platform.cuh"

#if PARO_EMULATED
#include <cstdio>
#include <exception>
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

#if PARO_EMULATED

template <class... Parameters>
LaunchStatus allow_shared_bytes(void (*kernel)(Parameters...), size_t bytes) {
  if (emulator::set_max_shared_bytes(reinterpret_cast<const void*>(kernel), bytes)) {
    return LaunchStatus::ok;
  }
  std::snprintf(last_launch_message(), launch_message_bytes,
                "%zu bytes of dynamic shared memory: no GPU has as many", bytes);
  return LaunchStatus::failed;
}

template <class... Parameters>
LaunchStatus load_kernel(void (*)(Parameters...)) {
  return LaunchStatus::ok;
}

// Runs to completion; the stream is ignored.
template <class... Parameters, class... Arguments>
LaunchStatus launch(void (*kernel)(Parameters...), const LaunchShape& shape,
                    const Arguments&... arguments) {
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
inline LaunchStatus status_of(cudaError_t error) {
  if (error == cudaSuccess) return LaunchStatus::ok;
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

// Needed once for a kernel that uses more than 48 KB.
template <class... Parameters>
LaunchStatus allow_shared_bytes(void (*kernel)(Parameters...), size_t bytes) {
  return detail::status_of(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                static_cast<int>(bytes)));
}

// CUDA loads a kernel when it is first used, which may allocate and wait: this is a use.
template <class... Parameters>
LaunchStatus load_kernel(void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes;
  return detail::status_of(cudaFuncGetAttributes(&attributes, kernel));
}

// Asynchronous: `ok` says that the launch was accepted.
template <class... Parameters, class... Arguments>
LaunchStatus launch(void (*kernel)(Parameters...), const LaunchShape& shape,
                    const Arguments&... arguments) {
  kernel<<<shape.grid, shape.block, shape.shared_bytes, shape.stream>>>(arguments...);
  return detail::status_of(cudaGetLastError());
}

#endif

}  // namespace paro
