#include "kernels/sparse_attention/launch.h"

#include <cstdio>

namespace paro::kernels::sparse_attention {

LaunchStatus prepare(const Kernel& kernel, bool fine) {
  const auto function = fine ? kernel.fine_function : kernel.function;
  if (function == nullptr) {
    std::snprintf(last_launch_message(), launch_message_bytes,
                  "this library was built for no GPU that has the kernel's instructions");
    return LaunchStatus::failed;
  }
  return allow_all_shared_bytes(function, fine ? *kernel.fine_allowed : *kernel.allowed);
}

LaunchStatus launch(const Kernel& kernel, bool fine, const AttentionParams& params, unsigned blocks,
                    size_t shared_bytes, Stream stream) {
  return paro::launch(fine ? kernel.fine_function : kernel.function,
                      {.grid = dim3(blocks),
                       .block = dim3(static_cast<unsigned>(kernel.threads)),
                       .shared_bytes = shared_bytes,
                       .stream = stream,
                       .blocks_an_sm = static_cast<unsigned>(kernel.blocks_an_sm)},
                      params);
}

}  // namespace paro::kernels::sparse_attention
