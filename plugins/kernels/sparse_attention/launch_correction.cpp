#include "kernels/sparse_attention/launch.h"

#include <cstdio>

namespace paro::kernels::sparse_attention {

LaunchStatus prepare_correction(const Kernel& kernel) {
  if (kernel.correction == nullptr) {
    std::snprintf(last_launch_message(), launch_message_bytes,
                  "this library was built for no GPU that has the correction's instructions");
    return LaunchStatus::failed;
  }
  return allow_all_shared_bytes(kernel.correction, *kernel.correction_allowed);
}

LaunchStatus launch_correction(const Kernel& kernel, const CorrectionParams& params,
                               Stream stream) {
  const Geometry& g = params.attention.geometry;
  const int tiles = (g.query_blocks + correction_tile_rows - 1) / correction_tile_rows;
  const int heads = g.units * (g.heads / g.kv_heads);
  return paro::launch(kernel.correction,
                      {.grid = dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(heads)),
                       .block = dim3(correction_threads),
                       .shared_bytes = kernel.correction_bytes,
                       .stream = stream,
                       .blocks_an_sm = 1},
                      params);
}

}  // namespace paro::kernels::sparse_attention
