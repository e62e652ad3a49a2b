// Query rows before and after attention: where they lie, how they become words, what their output
// is.
#pragma once

#include "rotation.h"
#include "store_blocks.h"

namespace paro::cpu::PARO_ISA {

constexpr float kLog2E = 1.4426950408889634f;

// Where the row at a position of the reordered sequence starts.
inline int64_t query_element(const HeadJob& job, int head, int position) {
  const int64_t token = job.order[position];
  return ((job.sample * int64_t{job.call->tokens} + token) * job.call->heads + head) *
         job.call->head_dim;
}

// The mean of the rows that exist of `run` rows from position `first` on, as they come: [D]. Uses
// scratch.rows and scratch.sums.
inline void mean_of_queries(const HeadJob& job, int head, int first, int run, Scratch& scratch,
                            float* mean) {
  const paro_attention& call = *job.call;
  const int head_dim = call.head_dim, half = run / 2;
  const int rest = job.length - first, count = rest < run ? rest : run;
  const auto row_at = [&](int r, float* x) {
    if (r + kRowsAhead < count) {
      prefetch_row(call.query, query_element(job, head, first + r + kRowsAhead), head_dim,
                   call.dtype);
    }
    if (r < count) {
      load_row(call.query, query_element(job, head, first + r), head_dim, call.dtype, x);
    } else {
      for (int d = 0; d < head_dim; d += kVector) store(x + d, Vector{});
    }
  };
  // The first addition of halves happens while the rows are gathered.
  for (int r = 0; r < half; ++r) row_at(r, scratch.rows + r * head_dim);
  for (int r = 0; r < half; ++r) {
    alignas(64) float upper[kLargestHeadDim];
    row_at(half + r, upper);
    float* lower = scratch.rows + r * head_dim;
    for (int d = 0; d < head_dim; ++d) lower[d] += upper[d];
  }
  mean_of_rows(scratch.rows, half, head_dim, count, scratch.sums, mean);
}

// Rounds to the type of the inputs, within its finite range.
inline void round_in_range(float* x, int n, int32_t dtype) {
  const float largest = dtype == PARO_FLOAT16    ? 65504.0f
                        : dtype == PARO_BFLOAT16 ? 0x1.fep127f
                                                 : __FLT_MAX__;
  for (int i = 0; i < n; ++i) {
    x[i] = x[i] > largest ? largest : x[i] < -largest ? -largest : x[i];
  }
  round_to_storage(x, n, dtype);
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
    if (job.key_operand == Codes::kOperand) {
      precondition(x);
      return write_codes(x, job.summary_key_bits(), to);
    }
    store_unquantized(x, job.call->head_dim, job.key_operand, to);
    return scale;
  }

  void precondition(float* x) const {
    const int head_dim = job.call->head_dim;
    for (int d = 0; d < head_dim; d += kVector) {
      store(x + d, load(x + d) * load_unaligned(equalizer + d));
    }
    if (job.signs != nullptr) rotate(x, job.signs, head_dim);
  }

  // Of a row that is preconditioned. Returns the same factor.
  float write_codes(const float* x, int bits, Word* to) const {
    const int head_dim = job.call->head_dim;
    const Scale s = scale_of(magnitude_of(x, head_dim), bits);
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
