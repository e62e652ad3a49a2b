#include "kernels/stages.h"

#include <algorithm>
#include <cmath>

#include "kernels/routing/launch.h"
#include "kernels/smoothing/launch.h"
#include "kernels/sparse_attention/launch.h"
#include "kernels/summaries/launch.h"

namespace paro::kernels {
namespace {

using sparse_attention::Instructions;
using sparse_attention::Selection;

constexpr double log2_e = 1.4426950408889634;

Plan plan_of(const paro_attention& call) {
  return {.token_order = call.token_order,
          .head_order = call.head_order,
          .block_mask = call.block_mask,
          .tile_order = call.tile_order,
          .channel_affine = call.channel_affine,
          .mask_bin = call.mask_bin,
          .key_length = call.key_length,
          .fine_mask = call.fine_summaries ? call.fine_mask : nullptr,
          .corrected_heads = call.mean_correction ? call.corrected_heads : nullptr,
          .dynamic_blocks = call.routing ? call.dynamic_blocks : nullptr,
          .rotation = call.smoothing ? call.rotation : nullptr};
}

float logit_scale(const paro_attention& call) {
  const double scale =
      call.scale != 0.0f ? double{call.scale} : 1.0 / std::sqrt(static_cast<double>(call.head_dim));
  return static_cast<float>(scale * log2_e);
}

TileLayout layout_of(const Selection& selection) {
  return selection.instructions == Instructions::wgmma ? TileLayout::swizzled : TileLayout::rows;
}

// Launches what version 2 computes between the stages: fine summaries, chosen blocks, corrections.
LaunchStatus launch_version_2(const paro_attention& call, const Choice& choice,
                              const AttentionParams& attention, const Workspace& workspace,
                              Stream stream) {
  const Geometry& geometry = attention.geometry;
  const Number source = number_of(16, call.dtype);
  const Selection& selection = choice.kernel->selection;
  LaunchStatus status = LaunchStatus::ok;
  if (call.fine_summaries) {
    const FineParams fine{.geometry = geometry,
                          .plan = attention.plan,
                          .key = call.key,
                          .value = call.value,
                          .fine = workspace.fine,
                          .key_number = call.smoothing ? Number::s8 : selection.qk,
                          .value_number = fine_number(selection.pv)};
    status = summaries::launch_fine_groups(fine, source, call.head_dim, stream);
  }
  if (call.routing && status == LaunchStatus::ok) {
    const RoutingParams routed{.geometry = geometry,
                               .plan = attention.plan,
                               .query = call.query,
                               .key = call.key,
                               .value = call.value,
                               .means = workspace.routing,
                               .mask = workspace.routed_mask,
                               .logit_scale = attention.logit_scale,
                               .pooled = call.pool_dropped != 0};
    status = routing::launch_stage(routed, source, call.head_dim, stream);
  }
  if (call.smoothing && status == LaunchStatus::ok) {
    const SmoothingParams smoothing{.geometry = geometry,
                                    .plan = attention.plan,
                                    .query = call.query,
                                    .keys = workspace.smoothed,
                                    .routed_mask = workspace.routed_mask,
                                    .mean_query = workspace.smoothing_query,
                                    .bias = workspace.bias,
                                    .logit_scale = attention.logit_scale};
    status = smoothing::launch_stage(smoothing, source, call.head_dim, stream);
  }
  if (call.mean_correction && status == LaunchStatus::ok) {
    status = summaries::launch_correction_queries(geometry, attention.plan, call.query,
                                                  workspace.mean_query, call.qk_bits == 16, source,
                                                  call.head_dim, stream);
  }
  if (call.mean_correction && status == LaunchStatus::ok) {
    const CorrectionParams correction{.attention = attention,
                                      .mean_query = workspace.mean_query,
                                      .correction = workspace.correction,
                                      .layout = layout_of(selection)};
    status = sparse_attention::launch_correction(*choice.corrector, call.smoothing != 0, correction,
                                                 stream);
  }
  return status;
}

}  // namespace

Geometry geometry_of(const paro_attention& call, const Shape& shape) {
  return {.tokens = call.tokens,
          .heads = call.heads,
          .kv_heads = call.kv_heads,
          .orders = call.orders,
          .bins = call.bins,
          .query_blocks = shape.query_blocks,
          .key_blocks = shape.key_blocks,
          .summary_blocks = shape.summary_blocks,
          .mask_words = shape.mask_words,
          .block_q = call.block_q,
          .block_k = call.block_k,
          .first_unit = 0,
          .units = call.batch * call.kv_heads};
}

reorder_quantize::Selection stage1_of(const paro_attention& call) {
  return {.source = number_of(16, call.dtype),
          .head_dim = call.head_dim,
          .block_k = call.block_k,
          .pooled = call.pool_dropped != 0,
          .smoothed = call.smoothing != 0};
}

LaunchStatus launch_stages(const paro_attention& call, const Choice& choice,
                           const Geometry& geometry, const Workspace& workspace, Stream stream) {
  const Plan plan = plan_of(call);
  const Selection& selection = choice.kernel->selection;
  const ReorderParams reorder{.geometry = geometry,
                              .plan = plan,
                              .key = call.key,
                              .value = call.value,
                              .means = workspace.means,
                              .prepared = workspace.prepared,
                              .smoothed = workspace.smoothed,
                              .key_number = selection.qk,
                              .value_number = selection.pv,
                              .layout = layout_of(selection),
                              .tiles_taken = workspace.tiles_taken};
  const LaunchStatus reordered =
      reorder_quantize::launch_stage(stage1_of(call), reorder, stream);
  if (reordered != LaunchStatus::ok) return reordered;
  const int samples = (geometry.first_unit + geometry.units - 1) / geometry.kv_heads -
                      geometry.first_unit / geometry.kv_heads + 1;
  const AttentionParams attention{.geometry = geometry,
                                  .plan = plan,
                                  .query = call.query,
                                  .output = call.output,
                                  .prepared = workspace.prepared,
                                  .logit_scale = logit_scale(call),
                                  .is_bfloat16 = call.dtype == PARO_BFLOAT16,
                                  .fine = workspace.fine,
                                  .routed_mask = workspace.routed_mask,
                                  .correction = workspace.correction,
                                  .smoothed = workspace.smoothed,
                                  .mean_query = workspace.smoothing_query,
                                  .bias = workspace.bias,
                                  .tiles = call.heads * choice.shape.query_blocks * samples,
                                  .tiles_taken = workspace.tiles_taken};
  const LaunchStatus between = launch_version_2(call, choice, attention, workspace, stream);
  if (between != LaunchStatus::ok) return between;
  const int blocks =
      choice.kernel->is_persistent ? std::min(attention.tiles, choice.processors) : attention.tiles;
  return sparse_attention::launch(*choice.kernel, choice.body, attention,
                                  static_cast<unsigned>(blocks), choice.shared_bytes, stream);
}

}  // namespace paro::kernels
