#include "kernels/reorder_quantize/launch.h"

namespace paro::kernels::reorder_quantize {
namespace {

Stage find_stage(const Selection& s) {
  if (s.source == Number::bf16) {
    return s.head_dim == 64 ? stage_of<Number::bf16, 64>(s) : stage_of<Number::bf16, 128>(s);
  }
  return s.head_dim == 64 ? stage_of<Number::f16, 64>(s) : stage_of<Number::f16, 128>(s);
}

// Means of smoothed keys are quantized with or without pooling.
bool quantizes_means(const Selection& s) { return s.pooled || s.smoothed; }

LaunchStatus load(const Stage& stage, bool means) {
  const LaunchStatus tokens = allow_all_shared_bytes(stage.tokens.function, *stage.tokens.allowed);
  if (tokens != LaunchStatus::ok || !means) return tokens;
  return allow_all_shared_bytes(stage.means.function, *stage.means.allowed);
}

}  // namespace

LaunchStatus load_stage(const Selection& selection) {
  return load(find_stage(selection), quantizes_means(selection));
}

LaunchStatus launch_stage(const Selection& selection, const ReorderParams& p, Stream stream) {
  const Geometry& g = p.geometry;
  const Stage stage = find_stage(selection);
  const LaunchStatus loaded = load(stage, quantizes_means(selection));
  if (loaded != LaunchStatus::ok) return loaded;
  const auto shape = [&](int blocks, unsigned sides) {
    return LaunchShape{
        .grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(g.units), sides),
        .block = dim3(static_cast<unsigned>(stage.threads)),
        .shared_bytes = stage.shared_bytes,
        .stream = stream};
  };
  const int runs = (g.key_blocks + stage.run_blocks - 1) / stage.run_blocks;
  const LaunchStatus tokens = launch(stage.tokens.function, shape(runs, 2), p);
  if (tokens != LaunchStatus::ok || !quantizes_means(selection)) return tokens;
  return launch(stage.means.function,
                shape(mean_blocks(g.key_blocks, g.block_k), selection.pooled ? 2 : 1), p);
}

}  // namespace paro::kernels::reorder_quantize
