// Offsets of smoothed calls: the product of a query row and the mean of a key block, which all
// logits of the row and the block have in common.
#pragma once

#include "kernels/sparse_attention/sm80/softmax.cuh"

namespace paro::kernels::sparse_attention::sm80 {

// Products of the warp's rows of an 8-bit query tile and the means of eight blocks, the columns:
// lanes 4 j .. give the row of number j, [D] codes. `thread`: threadIdx.x.
template <class E>
PTX_FN void multiply_means(uint32_t thread, uint32_t query_tile, const uint8_t* mean,
                           const BiasedZero& zero, int32_t (&c)[row_fragments<E>][4]) {
  static_assert(E::qk == Number::s8, "offsets have 8 bits");
  const uint32_t warp = thread / 32, lane = thread % 32;
  const uint32_t query_address =
      query_tile +
      swizzled_offset<E::query_row_bytes>(warp * E::rows_per_warp + lane % 16, lane / 16);
  const auto* words = reinterpret_cast<const uint32_t*>(mean) + lane % 4;
#pragma unroll
  for (uint32_t k = 0; k < E::head_dim / 32; k++) {
    const uint32_t b[2] = {__ldg(words + k * 8), __ldg(words + k * 8 + 4)};
#pragma unroll
    for (uint32_t a = 0; a < row_fragments<E>; a++) {
      uint32_t query[4];
      ptx::ldmatrix_x4(query, (query_address ^ (k << 5)) + a * 16 * E::query_row_bytes);
      k == 0 ? ptx::mma_s8_s8_from(zero.registers, c[a], query, b)
             : ptx::mma_s8_s8(c[a], query, b);
    }
  }
}

template <class E>
PTX_FN void multiply_means(uint32_t query_tile, const uint8_t* mean, const BiasedZero& zero,
                           int32_t (&c)[row_fragments<E>][4]) {
  multiply_means<E>(threadIdx.x, query_tile, mean, zero, c);
}

// The weights of a row's logits that lack its offset; `largest` is the maximum of them.
template <class V>
PTX_FN void weigh_row(int row, float largest, float offset, StepWeights& weights,
                      RowState& state) {
  float logit = largest + offset;
  if (logit < lowest_logit) logit = lowest_logit;
  const float before = state.maximum[row], after = fmaxf(before, logit);
  state.maximum[row] = after;
  weights.keep[row] = ptx::exp2_approx(before - after);
  weights.take[row] = ptx::exp2_approx(logit - after);
}

// As exponentiate, of logits that lack an offset each row.
template <class V>
PTX_FN StepWeights exponentiate_logits(float (&x)[key_fragments<V>][4], const float (&offset)[2],
                                       RowState& state) {
  static_assert(is_integer(V::pv), "P is relative to the maximum of its row and step");
  StepWeights weights;
#pragma unroll
  for (int row = 0; row < 2; row++) {
    const float largest = row_maximum<V>(x, row);
    weigh_row<V>(row, largest, offset[row], weights, state);
    // Rounded down, so that no code exceeds the largest for logits of any size.
    const float shift = fminf(__fmaf_rd(-largest, 1.0f, log2_levels<V>()),
                              log2_levels<V>() - lowest_logit);
#pragma unroll
    for (int n = 0; n < key_fragments<V>; n++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float& value = x[n][2 * row + i];
        value = ptx::exp2_approx(value + shift);
      }
    }
  }
  return weights;
}

// Logits that 2 can be raised to, with room for a factor of as much.
constexpr float moderate_logit = 60.0f;

// exponentiate_logits and pack_probabilities.
//
// Where an addition rounds the codes, it is an FMA that also multiplies them by what makes the
// maximum the largest code. So nothing is subtracted from moderate logits before 2 is raised to
// them.
template <class V>
PTX_FN Probabilities<V> probabilities_of(float (&x)[key_fragments<V>][4], const float (&offset)[2],
                                         StepWeights& weights, RowState& state) {
  if constexpr (!ptx::packs_by_addition) {
    weights = exponentiate_logits<V>(x, offset, state);
    return pack_probabilities<V>(x, weights, state);
  } else {
    float largest[2], factor[2];
    bool moderate = true;
#pragma unroll
    for (int row = 0; row < 2; row++) {
      largest[row] = row_maximum<V>(x, row);
      weigh_row<V>(row, largest[row], offset[row], weights, state);
      moderate = moderate && fabsf(largest[row]) < moderate_logit;
    }
    if (!__all_sync(~0u, moderate)) {
#pragma unroll
      for (int n = 0; n < key_fragments<V>; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) x[n][i] -= fmaxf(largest[i / 2], lowest_logit);
      }
      largest[0] = largest[1] = 0.0f;
    }
#pragma unroll
    for (int row = 0; row < 2; row++) {
      factor[row] = ptx::exp2_approx(log2_levels<V>() - largest[row]);
    }
#pragma unroll
    for (int n = 0; n < key_fragments<V>; n++) {
#pragma unroll
      for (float& value : x[n]) value = ptx::exp2_approx(value);
    }
    return pack_codes<V>(x, weights, state,
                         [&](float x0, float x1, float x2, float x3, int row) {
                           return ptx::pack_u8x4_in_range(x0, x1, x2, x3, factor[row]);
                         });
  }
}

}  // namespace paro::kernels::sparse_attention::sm80
