#include "kernels/sparse_attention/launch.h"

#include <cstdio>

namespace paro::kernels::sparse_attention {
namespace {

struct Entry {
  void (*function)(AttentionParams);
  DeviceSet* allowed;
  int threads;
  int blocks_an_sm;
};

Entry entry_of(const Kernel& kernel, Body body) {
  switch (body) {
    case Body::fine: return {kernel.fine_function, kernel.fine_allowed, kernel.threads,
                             kernel.blocks_an_sm};
    case Body::smoothed:
      return {kernel.smoothed_function, kernel.smoothed_allowed, kernel.smoothed_threads,
              kernel.smoothed_blocks_an_sm};
    default: return {kernel.function, kernel.allowed, kernel.threads, kernel.blocks_an_sm};
  }
}

}  // namespace

LaunchStatus prepare(const Kernel& kernel, Body body) {
  const Entry entry = entry_of(kernel, body);
  if (entry.function == nullptr) {
    std::snprintf(last_launch_message(), launch_message_bytes,
                  "this library was built for no GPU that has the kernel's instructions");
    return LaunchStatus::failed;
  }
  return allow_all_shared_bytes(entry.function, *entry.allowed);
}

LaunchStatus launch(const Kernel& kernel, Body body, const AttentionParams& params, unsigned blocks,
                    size_t shared_bytes, Stream stream) {
  const Entry entry = entry_of(kernel, body);
  return paro::launch(entry.function,
                      {.grid = dim3(blocks),
                       .block = dim3(static_cast<unsigned>(entry.threads)),
                       .shared_bytes = shared_bytes,
                       .stream = stream,
                       .blocks_an_sm = static_cast<unsigned>(entry.blocks_an_sm)},
                      params);
}

}  // namespace paro::kernels::sparse_attention
