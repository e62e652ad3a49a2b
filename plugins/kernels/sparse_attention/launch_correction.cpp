#include <cstdio>

#include "kernels/sparse_attention/launch.h"

namespace paro::kernels::sparse_attention {
namespace {

struct Entry {
  void (*function)(CorrectionParams);
  size_t shared_bytes;
  DeviceSet* allowed;
};

Entry entry_of(const Kernel& k, bool smoothed) {
  if (!smoothed) return {k.correction, k.correction_bytes, k.correction_allowed};
  return {k.smoothed_correction, k.smoothed_correction_bytes, k.smoothed_correction_allowed};
}

}  // namespace

LaunchStatus prepare_correction(const Kernel& kernel, bool smoothed) {
  const Entry entry = entry_of(kernel, smoothed);
  if (entry.function == nullptr) {
    std::snprintf(last_launch_message(), launch_message_bytes,
                  "this library was built for no GPU that has the correction's instructions");
    return LaunchStatus::failed;
  }
  return allow_all_shared_bytes(entry.function, *entry.allowed);
}

LaunchStatus launch_correction(const Kernel& kernel, bool smoothed, const CorrectionParams& params,
                               Stream stream) {
  const Geometry& g = params.attention.geometry;
  const int tiles = (g.query_blocks + correction_tile_rows - 1) / correction_tile_rows;
  const int heads = g.units * (g.heads / g.kv_heads);
  const Entry entry = entry_of(kernel, smoothed);
  return paro::launch(entry.function,
                      {.grid = dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(heads)),
                       .block = dim3(correction_threads),
                       .shared_bytes = entry.shared_bytes,
                       .stream = stream,
                       .blocks_an_sm = 1},
                      params);
}

}  // namespace paro::kernels::sparse_attention
