// Rows of one head in shared memory, and their means in the order of sums that the op specifies.
#pragma once

#include "kernels/quantize.cuh"

namespace paro::kernels::summaries {

constexpr int threads = 256;

// Rows of one head, gathered in its order, as they come. 16 more bytes a row: threads that sum one
// channel each read consecutive banks, and those that copy do too.
template <int D, int Rows>
struct RawRows {
  alignas(16) uint16_t row[Rows][D + 8];
};

// Fills `rows` with positions first .. of the head's order, and with zeros where no token exists.
// `source` [B, S, heads, D].
template <int D, int Rows>
DEVICE_FN void gather_rows(const Geometry& g, const void* source, int heads, int head, int sample,
                           const int32_t* order, int first, int length, RawRows<D, Rows>& rows) {
  constexpr int chunks = D / 8;
  for (int i = static_cast<int>(threadIdx.x); i < Rows * chunks; i += threads) {
    const int row = i / chunks, chunk = i % chunks, position = first + row;
    uint4 raw = {};
    if (position < length) {
      const int64_t token = static_cast<int64_t>(sample) * g.tokens + token_at(g, order, position);
      raw = __ldg(reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(source) +
                                                 (token * heads + head) * D + chunk * 8));
    }
    *reinterpret_cast<uint4*>(&rows.row[row][chunk * 8]) = raw;
  }
}

DEVICE_FN float float_from_16bit(uint16_t x, bool is_bfloat16) {
  return floats_from_pair(x, is_bfloat16).x;
}

DEVICE_FN uint16_t float_to_16bit(float x, bool is_bfloat16) {
  return static_cast<uint16_t>(pair_from_floats(x, 0.0f, is_bfloat16));
}

// The sum of row(first), row(first + stride), ...: Rows of them, halves added until one is left.
// __fadd_rn: a plain sum may be fused with the product that made one of its terms.
template <int Rows, class Row>
DEVICE_FN float halved_sum(const Row& row, int first, int stride = 1) {
  if constexpr (Rows == 1) {
    return row(first);
  } else {
    return __fadd_rn(halved_sum<Rows / 2>(row, first, 2 * stride),
                     halved_sum<Rows / 2>(row, first + stride, 2 * stride));
  }
}

// The sum over `count` existing rows as their mean; 0 where there is none.
DEVICE_FN float mean_of(float sum, int count) {
  return __fdiv_rn(sum, static_cast<float>(max(count, 1)));
}

// Existing tokens of the run of `run` positions from `first` on.
DEVICE_FN int tokens_of_run(int length, int first, int run) {
  return min(max(length - first, 0), run);
}

}  // namespace paro::kernels::summaries
