// Query rows before and after attention: where they lie, how they become words, what their output
// is.
#pragma once

#include "../head_job.h"
#include "quantize.h"

namespace paro::cpu::PARO_ISA {

constexpr float kLog2E = 1.4426950408889634f;

// Where the row at a position of the reordered sequence starts.
inline int64_t query_element(const HeadJob& job, int head, int position) {
  const int64_t token = job.order[position];
  return ((job.sample * int64_t{job.call->tokens} + token) * job.call->heads + head) *
         job.call->head_dim;
}

// The factor of products q . k in base-2 logits.
inline float base_2_scale(const paro_attention& call) {
  const float scale = call.scale != 0.0f
                          ? call.scale
                          : 1.0f / __builtin_sqrtf(static_cast<float>(call.head_dim));
  return scale * kLog2E;
}

// Preconditions, quantizes and stores query rows as words.
struct QueryWriter {
  const HeadJob& job;
  const float* equalizer;
  float scale;

  explicit QueryWriter(const HeadJob& j)
      : job(j),
        equalizer(j.call->channel_affine +
                  (PARO_EQUALIZER * j.call->kv_heads + j.kv_head) * j.call->head_dim),
        scale(base_2_scale(*j.call)) {}

  // Changes x. Returns the factor of the row's products with keys.
  float write(float* x, Word* to) const {
    const int head_dim = job.call->head_dim;
    if (job.key_operand != Codes::kOperand) {
      store_unquantized(x, head_dim, job.key_operand, to);
      return scale;
    }
    for (int d = 0; d < head_dim; d += kVector) {
      store(x + d, load(x + d) * load_unaligned(equalizer + d));
    }
    const Scale s = scale_of(magnitude_of(x, head_dim), job.call->qk_bits);
    store_codes(x, head_dim, s, Codes::kQueryOffset, reinterpret_cast<Codes::Element*>(to));
    return s.scale * scale;
  }
};

// Turns weighted sums of values into outputs.
struct OutputScale {
  bool none;
  const float* shift;
  const float* factor;

  explicit OutputScale(const HeadJob& job)
      : none(job.value_operand != Codes::kOperand),
        shift(job.call->channel_affine +
              (PARO_VALUE_MEAN * job.call->kv_heads + job.kv_head) * job.call->head_dim),
        factor(shift + job.call->kv_heads * job.call->head_dim) {}

  // `sum`: of the weights of the row x.
  void apply(float* x, int head_dim, float sum) const {
    const float inverse = 1.0f / sum;
    if (sum == 0.0f) {
      for (int d = 0; d < head_dim; ++d) x[d] = 0.0f;
    } else if (!none) {
      for (int d = 0; d < head_dim; ++d) x[d] = x[d] * inverse * factor[d] + shift[d];
    } else {
      for (int d = 0; d < head_dim; ++d) x[d] *= inverse;
    }
  }
};

}  // namespace paro::cpu::PARO_ISA
