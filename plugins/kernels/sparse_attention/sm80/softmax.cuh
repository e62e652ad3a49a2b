// Online softmax of one span, base 2, for 16 query rows.
//
// Where PV is quantized, the codes of P are relative to the maximum of their row in this span.
// Relative to a running maximum, spans far below it would lose their codes. The span's weight
// relative to the running maximum is a factor of its product instead.
#pragma once

#include "kernels/sparse_attention/sm80/products.cuh"

namespace paro::kernels::sparse_attention::sm80 {

// The weights in output = output * keep + P V * take, for the two rows of a lane.
struct StepWeights {
  float keep[2];
  float take[2];  // 1 at 16 bits
};

template <class V>
PTX_FN float row_maximum(const float (&x)[key_fragments<V>][4], int row) {
  float largest = ptx::maximum_or_nan(x[0][2 * row], x[0][2 * row + 1]);
#pragma unroll
  for (int n = 1; n < key_fragments<V>; n++) {
    largest = ptx::maximum_or_nan(largest, ptx::maximum_or_nan(x[n][2 * row], x[n][2 * row + 1]));
  }
  return quad_maximum(largest);
}

// Replaces x by P, unnormalised, and gives the step's weights. The logits are x * factor, plus the
// bias where there is one. NaN anywhere in a row reaches its sum or its weights, and so all of its
// output.
template <class V, bool Biased = false>
PTX_FN StepWeights exponentiate(float (&x)[key_fragments<V>][4], const float (&factor)[2],
                                float bias, RowState& state) {
  StepWeights weights;
#pragma unroll
  for (int row = 0; row < 2; row++) {
    const float largest = row_maximum<V>(x, row);
    float logit;
    if constexpr (is_integer(V::pv)) {
      logit = Biased ? fmaf(largest, factor[row], bias) : largest * factor[row];
    } else {
      // Rounded up, and the offset down: no P exceeds 1, whatever the size of the logits.
      logit = __fmaf_ru(largest, factor[row], Biased ? bias : 0.0f);
    }
    if (logit < lowest_logit) logit = lowest_logit;
    const float before = state.maximum[row], after = fmaxf(before, logit);
    state.maximum[row] = after;
    weights.keep[row] = ptx::exp2_approx(before - after);
    weights.take[row] = is_integer(V::pv) ? ptx::exp2_approx(logit - after) : 1.0f;
    // Rounded down, so that no code exceeds the largest for logits of any size.
    const float offset = is_integer(V::pv)
                             ? fminf(__fmaf_rd(-largest, factor[row], log2_levels<V>()),
                                     log2_levels<V>() - lowest_logit)
                             : Biased ? __fadd_rd(bias, -after) : -after;
#pragma unroll
    for (int n = 0; n < key_fragments<V>; n++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float& value = x[n][2 * row + i];
        value = ptx::exp2_approx(fmaf(value, factor[row], offset));
      }
    }
  }
  return weights;
}

// Adds this lane's integer P to the row sums, as its codes, and gives them as operand.
// `pack(x0, x1, x2, x3, row)`: four codes of a row.
template <class V, class Pack>
PTX_FN Probabilities<V> pack_codes(const float (&x)[key_fragments<V>][4],
                                   const StepWeights& weights, RowState& state, const Pack& pack) {
  Probabilities<V> p;
  uint32_t sum[2] = {};
#pragma unroll
  for (int n = 0; n < key_fragments<V>; n += 2) {
#pragma unroll
    for (int row = 0; row < 2; row++) {
      const uint32_t codes =
          pack(x[n][2 * row], x[n][2 * row + 1], x[n + 1][2 * row], x[n + 1][2 * row + 1], row);
      sum[row] = __dp4a(codes, 0x01010101u, sum[row]);
      if constexpr (Probabilities<V>::keys_each == 32) {
        p.a[n / 4][n / 2 % 2 * 2 + row] = codes;
      } else {
        // 4 bits: the low 16 of 32 keys become the even nibbles (value_order.h).
        uint32_t& nibbles = p.a[n / 8][n / 4 % 2 * 2 + row];
        nibbles = n / 2 % 2 == 0 ? codes : nibbles | codes << 4;
      }
    }
  }
#pragma unroll
  for (int row = 0; row < 2; row++) {
    state.sum[row] =
        state.sum[row] * weights.keep[row] + weights.take[row] * static_cast<float>(sum[row]);
  }
  return p;
}

// Adds this lane's P to the row sums, and gives P as operand.
template <class V>
PTX_FN Probabilities<V> pack_probabilities(const float (&x)[key_fragments<V>][4],
                                           const StepWeights& weights, RowState& state) {
  if constexpr (is_integer(V::pv)) {
    return pack_codes<V>(x, weights, state, [](float x0, float x1, float x2, float x3, int) {
      return ptx::pack_u8x4_in_range(x0, x1, x2, x3);
    });
  } else {
    Probabilities<V> p;
    float sum[2] = {};
#pragma unroll
    for (int n = 0; n < key_fragments<V>; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) sum[i / 2] += x[n][i];
#pragma unroll
      for (int row = 0; row < 2; row++) {
        const float low = x[n][2 * row], high = x[n][2 * row + 1];
        p.a[n / 2][n % 2 * 2 + row] =
            V::pv == Number::bf16 ? ptx::pack_bf16x2(low, high) : ptx::pack_f16x2(low, high);
      }
    }
#pragma unroll
    for (int row = 0; row < 2; row++) {
      state.sum[row] = state.sum[row] * weights.keep[row] + sum[row];
    }
    return p;
  }
}

}  // namespace paro::kernels::sparse_attention::sm80
