// Runs a kernel over a grid on the CPU.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>

#include "emulator/block.h"
#include "emulator/diagnosis.h"

namespace paro::emulator {

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  unsigned blocks_an_sm = 1;  // that must fit, as in __launch_bounds__
};

// What a kernel may use without asking (cudaFuncSetAttribute), and at most.
constexpr size_t default_shared_bytes = 48 << 10;
constexpr size_t largest_shared_bytes = 227 << 10;
// What an SM has, and keeps of it for each block.
constexpr size_t shared_bytes_an_sm = 228 << 10, reserved_shared_bytes = 1 << 10;

// The counterpart of cudaFuncAttributeMaxDynamicSharedMemorySize; false where no GPU allows it.
bool set_max_shared_bytes(const void* kernel, size_t bytes);
size_t max_shared_bytes(const void* kernel);

// Runs body() as every thread of the grid. Throws Failure with the first diagnosis; blocks that
// have not started by then do not run.
void run_grid(const LaunchShape& shape, size_t allowed_shared_bytes,
              const std::function<void()>& body);

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape,
            const Arguments&... arguments) {
  run_grid(shape, max_shared_bytes(reinterpret_cast<const void*>(kernel)),
           [&] { kernel(arguments...); });
}

// launch() with a diagnosis as a value instead of an exception.
template <class... Parameters, class... Arguments>
std::optional<Diagnosis> try_launch(void (*kernel)(Parameters...), const LaunchShape& shape,
                                    const Arguments&... arguments) {
  try {
    launch(kernel, shape, arguments...);
  } catch (const Failure& failure) {
    return failure.diagnosis();
  }
  return std::nullopt;
}

}  // namespace paro::emulator
