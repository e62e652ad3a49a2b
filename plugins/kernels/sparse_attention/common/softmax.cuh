// What the softmax of both generations shares: base 2, online, one running state for each row.
#pragma once

#include "kernels/params.h"
#include "ptx/convert.cuh"

namespace paro::kernels::sparse_attention {

// Fragments of 16 query rows that a warp holds.
template <class V>
constexpr int row_fragments = V::rows_per_warp / 16;

// Below every logit, and finite, so that the difference of two such values is not NaN.
constexpr float lowest_logit = -1e30f;

// What a lane keeps of the two rows of a fragment between steps. Index 0: row g, 1: row g + 8.
struct RowState {
  float maximum[2];  // what the row's weights are relative to: a maximum of its logits
  float sum[2];      // of this lane's part of P, relative to that maximum
};

// log2 of the largest code of P.
template <class V>
constexpr float log2_levels() {
  return V::pv == Number::s8 ? 7.99435344f : 3.90689060f;  // log2(255), log2(15)
}

// Maximum over the four lanes that hold a row.
PTX_FN float quad_maximum(float x) {
  x = ptx::maximum_or_nan(x, __shfl_xor_sync(~0u, x, 1));
  return ptx::maximum_or_nan(x, __shfl_xor_sync(~0u, x, 2));
}

}  // namespace paro::kernels::sparse_attention
