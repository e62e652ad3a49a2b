// How the caller's workspace is cut up, and how many heads it holds at a time.
#pragma once

#include <cstddef>

#include "common/check.h"
#include "kernels/params.h"

namespace paro::kernels {

constexpr size_t workspace_alignment = 256;

// What the workspace of `units` units holds.
struct Workspace {
  PreparedKeys prepared;
  int32_t* tiles_taken;
  BlockMeans means;
  SmoothedKeys smoothed;
  uint16_t* smoothing_query;
  float* bias;
  // Version 2; no bytes where not used.
  FineGroups fine;
  RoutingMeans routing;
  uint32_t* routed_mask;
  float* mean_query;
  float* correction;
  size_t bytes;
};

// The type of a call's prepared keys or values.
inline Number number_of(int32_t bits, int32_t dtype) {
  if (bits == 8) return Number::s8;
  if (bits == 4) return Number::s4;
  return dtype == PARO_BFLOAT16 ? Number::bf16 : Number::f16;
}

// Biases of smoothed calls: a value for each key and query block.
inline int64_t bias_floats(const paro_attention& call, const Shape& shape, int64_t units) {
  if (!call.smoothing) return 0;
  const int64_t heads = units * (call.heads / call.kv_heads);
  return heads * shape.query_blocks * shape.key_blocks * call.block_k;
}

// Addresses within `base`. With a null base only `bytes` is valid.
inline Workspace cut_workspace(const paro_attention& call, const Shape& shape, int64_t units,
                               void* base) {
  size_t used = 0;
  const auto take = [&](int64_t bytes) {
    auto* piece = base == nullptr ? nullptr : static_cast<uint8_t*>(base) + used;
    used += (static_cast<size_t>(bytes) + workspace_alignment - 1) / workspace_alignment *
            workspace_alignment;
    return piece;
  };
  const auto take_floats = [&](int64_t count) { return reinterpret_cast<float*>(take(count * 4)); };
  const int64_t blocks = units * (shape.key_blocks + shape.summary_blocks);
  const int64_t elements = blocks * call.block_k * call.head_dim;
  const int64_t all_means = units * shape.key_blocks * call.head_dim;
  const int64_t means = call.pool_dropped ? all_means : 0;
  Workspace w{};
  w.prepared.key = take(elements * call.qk_bits / 8);
  w.prepared.value = take(elements * call.pv_bits / 8);
  w.prepared.key_scale = take_floats(blocks);
  w.prepared.value_scale = take_floats(call.pv_bits == 4 ? blocks * call.head_dim : blocks);
  w.tiles_taken = reinterpret_cast<int32_t*>(take(sizeof(int32_t)));
  w.means = {take_floats(call.smoothing ? all_means : means), take_floats(means)};
  const int64_t heads = units * (call.heads / call.kv_heads);
  const int64_t rows = units * shape.key_blocks * call.block_k;
  if (call.smoothing) {
    const int64_t groups = units * mean_blocks(shape.key_blocks, call.block_k);
    w.smoothed.key_scale = take_floats(2 * rows);
    w.smoothed.centred = take(rows * call.head_dim);
    w.smoothed.centred_scale = take_floats(units * shape.key_blocks);
    w.smoothed.mean = take(groups * call.block_k * call.head_dim);
    w.smoothed.mean_scale = take_floats(groups);
    w.smoothing_query =
        reinterpret_cast<uint16_t*>(take(heads * shape.query_blocks * call.head_dim * 2));
    w.bias = take_floats(bias_floats(call, shape, units));
  }
  if (call.fine_summaries) {
    const int64_t groups = units * shape.key_blocks;
    const int64_t summaries = groups * fine_summaries * call.head_dim;
    w.fine.key = take(summaries * (call.smoothing ? 8 : call.qk_bits) / 8);
    w.fine.value = take(summaries * bits_of(fine_number(number_of(call.pv_bits, call.dtype))) / 8);
    w.fine.key_scale = take_floats(groups);
    w.fine.value_scale = take_floats(groups);
  }
  if (call.routing) {
    const auto take_rows = [&](int64_t count) {
      return reinterpret_cast<uint16_t*>(take(count * call.head_dim * 2));
    };
    const int runs = call.block_k / routing_run;
    const int64_t padded = units * routing_blocks(shape.key_blocks);
    w.routing.query = take_rows(heads * routing_query_runs(shape.query_blocks, call.block_q));
    w.routing.key = take_rows(padded * runs);
    w.routing.value = take_rows(padded * runs);
    w.routing.transposed_value = take_rows(padded * runs);
    w.routing.block_key = take_rows(padded);
    w.routing.block_value = take_rows(padded);
    w.routing.gram = take_floats(padded * routing_products(runs));
    w.routing.error = take_floats(heads * shape.query_blocks * shape.key_blocks);
    w.routed_mask = reinterpret_cast<uint32_t*>(
        take_floats(heads * shape.query_blocks * shape.mask_words));
  }
  if (call.mean_correction) {
    const int64_t runs = (call.tokens + correction_rows - 1) / correction_rows;
    w.mean_query = take_floats(heads * runs * call.head_dim);
    w.correction = take_floats(heads * shape.query_blocks * call.head_dim);
  }
  w.bytes = used;
  return w;
}

// What the biases of units taken at once may have where the caller sets no limit. One unit of Wan at
// 720p, 75,600 tokens, has 179 MB of them.
constexpr int64_t most_bias_bytes = int64_t{1} << 30;

// Units taken at once: as many as stay within `limit` (0: that of biases alone). The caller has
// checked that one unit does. The y dimension of a grid is at most 65535.
inline int32_t units_at_once(const paro_attention& call, const Shape& shape, size_t limit) {
  const int64_t all = int64_t{call.batch} * call.kv_heads;
  int64_t units = all < 65535 ? all : 65535;
  const int64_t unit_bias = bias_floats(call, shape, 1) * int64_t{sizeof(float)};
  if (limit == 0 && unit_bias != 0) {
    const int64_t fitting = most_bias_bytes / unit_bias;
    units = units < fitting ? units : fitting > 1 ? fitting : 1;
  }
  if (limit != 0) {
    while (units > 1 && cut_workspace(call, shape, units, nullptr).bytes > limit) {
      units = units / 2 > 0 ? (units + 1) / 2 : 1;
    }
  }
  return static_cast<int32_t>(units);
}

}  // namespace paro::kernels
