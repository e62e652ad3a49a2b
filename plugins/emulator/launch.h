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
  unsigned blocks_an_sm = 1;  // that must fit on an SM, as in __launch_bounds__
};

// The shared memory that a kernel may use without a request, and the most that it can request with
// cudaFuncSetAttribute.
constexpr size_t default_shared_bytes = 48 << 10;
constexpr size_t largest_shared_bytes = 227 << 10;
// The shared memory of an SM, and the part that it reserves for each block.
constexpr size_t shared_bytes_an_sm = 228 << 10, reserved_shared_bytes = 1 << 10;

// Replaces cudaFuncAttributeMaxDynamicSharedMemorySize. Returns false if no GPU allows this size.
bool set_max_shared_bytes(const void* kernel, size_t bytes);
size_t max_shared_bytes(const void* kernel);

// Runs body() as every thread of the grid. Throws Failure with the first diagnosis. Blocks that
// have not started by then do not run.
void run_grid(const LaunchShape& shape, size_t allowed_shared_bytes,
              const std::function<void()>& body);

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape,
            const Arguments&... arguments) {
  run_grid(shape, max_shared_bytes(reinterpret_cast<const void*>(kernel)),
           [&] { kernel(arguments...); });
}

// The same as launch(), but returns a diagnosis instead of throwing it.
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
