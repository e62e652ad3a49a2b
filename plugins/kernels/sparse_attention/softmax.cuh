// Online softmax of one slot, base 2, for the 16 rows of an accumulator tile.
//
// P is unsigned codes against the maximum of its (row, slot) where PV is quantized: against a
// running maximum, slots far below it would lose their codes. Their weight against the running
// maximum is a factor of V's scale instead.
#pragma once

#include "kernels/sparse_attention/products.cuh"
#include "kernels/sparse_attention/slot_walk.cuh"

namespace paro::kernels::sparse_attention {

// Below every logit, yet finite: differences of two such values are no NaN.
constexpr float lowest_logit = -1e30f;

// What is kept of a row between steps. Index 0: row g, 1: row g + 8.
struct RowState {
  float maximum[2];  // running maximum of the logits
  float sum[2];      // of this lane's part of P, against that maximum
};

// What a step does to the output rows.
struct StepFactors {
  float keep[2];  // of what came before
  float take[2];  // of this slot's product (1 at 16 bits)
};

// log2 of the largest code: P's maximum becomes it.
template <class V>
constexpr float log2_levels() {
  return V::pv == Number::s8 ? 7.99435344f : 3.90689060f;  // log2(255), log2(15)
}

// Maximum over the row: its lanes are the four of a quad.
PTX_FN float quad_maximum(float x) {
  x = ptx::maximum_or_nan(x, __shfl_xor_sync(~0u, x, 1));
  return ptx::maximum_or_nan(x, __shfl_xor_sync(~0u, x, 2));
}

template <class V>
PTX_FN float row_maximum(const float (&x)[key_tiles<V>][4], int row) {
  float largest = ptx::maximum_or_nan(x[0][2 * row], x[0][2 * row + 1]);
#pragma unroll
  for (int n = 1; n < key_tiles<V>; n++) {
    largest = ptx::maximum_or_nan(largest, ptx::maximum_or_nan(x[n][2 * row], x[n][2 * row + 1]));
  }
  return quad_maximum(largest);
}

// x -> P in place, unnormalised, and the step's factors. NaN anywhere in a row ends up in its sum
// or its factors, and so in all of its output.
template <class V>
PTX_FN StepFactors exponentiate(float (&x)[key_tiles<V>][4], const float (&factor)[2],
                                RowState& state) {
  StepFactors factors;
#pragma unroll
  for (int row = 0; row < 2; row++) {
    const float largest = row_maximum<V>(x, row);
    float logit = largest * factor[row];
    if (logit < lowest_logit) logit = lowest_logit;
    const float before = state.maximum[row], after = fmaxf(before, logit);
    state.maximum[row] = after;
    factors.keep[row] = ptx::exp2_approx(before - after);
    factors.take[row] = is_integer(V::pv) ? ptx::exp2_approx(logit - after) : 1.0f;
    // Rounded down, so that no code exceeds the largest, however large the logits are.
    const float offset = is_integer(V::pv)
                             ? fminf(__fmaf_rd(-largest, factor[row], log2_levels<V>()),
                                     log2_levels<V>() - lowest_logit)
                             : -after;
#pragma unroll
    for (int n = 0; n < key_tiles<V>; n++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float& value = x[n][2 * row + i];
        value = ptx::exp2_approx(fmaf(value, factor[row], offset));
      }
    }
  }
  return factors;
}

// Sums of this lane's P and P as operand. Integer P is summed as its codes.
template <class V>
PTX_FN Probabilities<V> pack_probabilities(const float (&x)[key_tiles<V>][4],
                                           const StepFactors& factors, RowState& state) {
  Probabilities<V> p;
  if constexpr (!is_integer(V::pv)) {
    float sum[2] = {};
#pragma unroll
    for (int n = 0; n < key_tiles<V>; n++) {
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
      state.sum[row] = state.sum[row] * factors.keep[row] + sum[row];
    }
  } else {
    uint32_t sum[2] = {};
#pragma unroll
    for (int n = 0; n < key_tiles<V>; n += 2) {
#pragma unroll
      for (int row = 0; row < 2; row++) {
        const uint32_t codes = ptx::pack_u8x4_in_range(x[n][2 * row], x[n][2 * row + 1],
                                                       x[n + 1][2 * row], x[n + 1][2 * row + 1]);
        sum[row] = __dp4a(codes, 0x01010101u, sum[row]);
        if constexpr (Probabilities<V>::keys_each == 32) {
          p.a[n / 4][n / 2 % 2 * 2 + row] = codes;
        } else {
          // 4 bits: the low 16 of 32 keys are the even nibbles (value_order.h).
          uint32_t& nibbles = p.a[n / 8][n / 4 % 2 * 2 + row];
          nibbles = n / 2 % 2 == 0 ? codes : nibbles | codes << 4;
        }
      }
    }
#pragma unroll
    for (int row = 0; row < 2; row++) {
      state.sum[row] =
          state.sum[row] * factors.keep[row] + factors.take[row] * static_cast<float>(sum[row]);
    }
  }
  return p;
}

}  // namespace paro::kernels::sparse_attention
