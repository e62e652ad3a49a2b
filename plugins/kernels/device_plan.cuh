// Reading the plan on the device. TensorRT times kernels on arbitrary values, so every index read
// from a tensor is clamped to its range.
#pragma once

#include "kernels/params.h"
#include "paro/paro_c.h"
#include "ptx/platform.cuh"

#if defined(PARO_DEVICE_CHECKS) && PARO_DEVICE_CHECKS
#include <cstdio>
#endif

namespace paro::kernels {

#define DEVICE_FN static __device__ __forceinline__

// `value` clamped to [0, count); debug builds report where it was outside.
DEVICE_FN int clamp_index(int value, int count, const char* name) {
  const int clamped = min(max(value, 0), count - 1);
#if defined(PARO_DEVICE_CHECKS) && PARO_DEVICE_CHECKS
  if (clamped != value) std::printf("%s: expected 0..%d, got %d\n", name, count - 1, value);
#else
  (void)name;
#endif
  return clamped;
}

struct Unit {
  int index;  // in the workspace
  int sample;
  int kv_head;
};

DEVICE_FN Unit unit_at(const Geometry& g, int index) {
  const int unit = g.first_unit + index;
  return {index, unit / g.kv_heads, unit % g.kv_heads};
}

// Tokens of the sample's reordered sequence that exist.
DEVICE_FN int length_of(const Geometry& g, const Plan& plan, int sample) {
  return clamp_index(__ldg(plan.key_length + sample), g.tokens + 1, "key_length");
}

// [S] tokens in the order of a query head.
DEVICE_FN const int32_t* order_of(const Geometry& g, const Plan& plan, int head) {
  const int row = clamp_index(__ldg(plan.head_order + head), g.orders, "head_order");
  return plan.token_order + static_cast<int64_t>(row) * g.tokens;
}

DEVICE_FN int token_at(const Geometry& g, const int32_t* order, int position) {
  return clamp_index(__ldg(order + position), g.tokens, "token_order");
}

// Index, in the workspace, of the first prepared key block of a unit, given its Unit::index. The NK
// blocks of tokens are followed by the blocks of summary tokens.
DEVICE_FN int64_t first_prepared_block(const Geometry& g, int unit) {
  return static_cast<int64_t>(unit) * (g.key_blocks + g.summary_blocks);
}

// One row of channel_affine for a key/value head: [D] floats.
DEVICE_FN const float* affine_row(const Geometry& g, const Plan& plan, paro_affine_row row,
                                  int kv_head, int head_dim) {
  return plan.channel_affine + (static_cast<int>(row) * g.kv_heads + kv_head) * head_dim;
}

}  // namespace paro::kernels
