// Stage 2: one query block over the key blocks on its mask row, then over the summary tokens of
// the others. Query rows lie side by side in vectors, so that maxima and sums over keys need no
// work across a vector.
#pragma once

#include "../head_job.h"
#include "matrix_product.h"
#include "quantize.h"

namespace paro::cpu::PARO_ISA {

constexpr float kLog2E = 1.4426950408889634f;

// Rows of the query block, preconditioned and quantized, into scratch.query [D][Q].
inline void load_query(const HeadJob& job, int head, int query_block, int rows,
                       TileScratch& scratch) {
  const paro_attention& call = *job.call;
  const int head_dim = call.head_dim, width = call.block_q;
  const float* equalizer = call.channel_affine + (call.kv_heads + job.kv_head) * head_dim;
  const float scale = call.scale != 0.0f
                          ? call.scale
                          : 1.0f / __builtin_sqrtf(static_cast<float>(head_dim));
  for (int r = 0; r < width; ++r) {
    alignas(64) float row[128] = {};
    Scale s{1.0f, 1.0f};
    if (r < rows) {
      const int64_t token = job.order[query_block * width + r];
      const int64_t index = (job.sample * int64_t{call.tokens} + token) * call.heads + head;
      load_row(call.query, index, head_dim, call.dtype, row);
      if (call.qk_bits != 16) {
        for (int d = 0; d < head_dim; ++d) row[d] *= equalizer[d];
        s = scale_of(magnitude_of(row, head_dim), call.qk_bits);
        to_codes(row, head_dim, s);
      }
    }
    scratch.row_factor[r] = s.scale * (scale * kLog2E);
    for (int d = 0; d < head_dim; ++d) scratch.query[d * width + r] = row[d];
  }
}

// A run of keys with one scale for K and one for V.
struct KeyRun {
  const float* key;     // [count][D]
  const float* value;   // [D][block_k]
  const float* bias;    // [count] added to base-2 logits, or null
  int count;
  float key_scale;
  float value_scale;
};

// logits [count][Q] -> weights for V, in place; updates row maximum and sum, and rescales the
// output [D][Q] of what came before.
inline void softmax_run(const KeyRun& run, int pv_bits, int width, int head_dim,
                        TileScratch& scratch) {
  const float levels = pv_bits == 4 ? 15.0f : 255.0f;
  for (int c = 0; c < width; c += kVector) {
    float* logits = scratch.logits + c;
    const Vector factor = load(scratch.row_factor + c) * run.key_scale;
    Vector maximum = splat(kMinusInfinity);
    for (int j = 0; j < run.count; ++j) {
      Vector x = load(logits + j * width) * factor;
      if (run.bias != nullptr) x = x + run.bias[j];
      store(logits + j * width, x);
      maximum = max_ignoring_nan(maximum, x);
    }
    const Vector before = load(scratch.row_maximum + c);
    const Vector after = max_ignoring_nan(before, maximum);
    // Rows that met nothing but -inf: subtracting -inf would make NaN of what is 0.
    const Vector zero{};
    const Vector after_finite = after == kMinusInfinity ? zero : after;
    const Vector keep = exp2_not_positive(before - after_finite);

    Vector sum{};
    if (pv_bits == 16) {
      for (int j = 0; j < run.count; ++j) {
        const Vector p = exp2_not_positive(load(logits + j * width) - after_finite);
        sum = sum + p;
        store(logits + j * width, p);
      }
    } else {
      const Vector reference = maximum == kMinusInfinity ? zero : maximum;
      const Vector weight = exp2_not_positive(maximum - after_finite);
      const Vector folded = weight * run.value_scale;
      for (int j = 0; j < run.count; ++j) {
        const Vector p = exp2_not_positive(load(logits + j * width) - reference);
        const Vector code = round_half_even(p * levels);
        sum = sum + code;
        store(logits + j * width, code * folded);
      }
      sum = sum * weight;
    }
    store(scratch.row_sum + c, load(scratch.row_sum + c) * keep + sum);
    store(scratch.row_maximum + c, after);
    bool moved = false;
    for (int i = 0; i < kVector; ++i) moved |= keep[i] != 1.0f;
    if (moved) {
      for (int d = 0; d < head_dim; ++d) {
        store(scratch.output + d * width + c, load(scratch.output + d * width + c) * keep);
      }
    }
  }
}

inline void attend_run(const HeadJob& job, const KeyRun& run, TileScratch& scratch) {
  const int width = job.call->block_q, head_dim = job.call->head_dim;
  product<false>({run.key, head_dim, scratch.query, width, scratch.logits, width, head_dim},
                 run.count, width);
  softmax_run(run, job.call->pv_bits, width, head_dim, scratch);
  product<true>({run.value, job.call->block_k, scratch.logits, width, scratch.output, width,
                 run.count},
                head_dim, width);
}

inline bool is_listed(const int32_t* mask_row, int block) {
  return (static_cast<uint32_t>(mask_row[block / 32]) >> (block % 32) & 1) != 0;
}

// Gather the summary tokens of one group whose blocks are off the mask row.
inline int pick_summaries(const HeadJob& job, const int32_t* mask_row, int group,
                          TileScratch& scratch) {
  const int rows = job.call->block_k, head_dim = job.call->head_dim;
  const float* key = job.summary_key + int64_t{group} * rows * head_dim;
  const float* value = job.summary_value + int64_t{group} * rows * head_dim;
  int count = 0;
  for (int r = 0; r < rows; ++r) {
    const int block = group * rows + r;
    if (block >= job.key_blocks || job.tokens_in(block) == 0 || is_listed(mask_row, block)) continue;
    __builtin_memcpy(scratch.picked_key + count * head_dim, key + r * head_dim,
                     sizeof(float) * static_cast<unsigned>(head_dim));
    for (int d = 0; d < head_dim; ++d) {
      scratch.picked_value[d * rows + count] = value[d * rows + r];
    }
    scratch.picked_bias[count++] = __builtin_log2f(static_cast<float>(job.tokens_in(block)));
  }
  return count;
}

inline void write_output(const HeadJob& job, int head, int query_block, int rows,
                         const TileScratch& scratch) {
  const paro_attention& call = *job.call;
  const int head_dim = call.head_dim, width = call.block_q;
  const float* affine = call.channel_affine + job.kv_head * head_dim;
  const float* shift = affine + 2 * call.kv_heads * head_dim;
  const float* factor = affine + 3 * call.kv_heads * head_dim;
  for (int r = 0; r < rows; ++r) {
    const int64_t token = job.order[query_block * width + r];
    const int64_t index = (job.sample * int64_t{call.tokens} + token) * call.heads + head;
    const float sum = scratch.row_sum[r];
    for (int d = 0; d < head_dim; ++d) {
      float x = sum == 0.0f ? 0.0f : scratch.output[d * width + r] / sum;
      if (call.pv_bits != 16 && sum != 0.0f) x = x * factor[d] + shift[d];
      store_element(call.output, index * head_dim + d, call.dtype, x);
    }
  }
}

inline void attend_tile(const HeadJob& job, int32_t head, int32_t query_block,
                        TileScratch& scratch) {
  const paro_attention& call = *job.call;
  const int head_dim = call.head_dim, width = call.block_q;
  const int rest = job.length - query_block * width;
  const int rows = rest < width ? rest : width;
  if (rows <= 0) return;
  load_query(job, head, query_block, rows, scratch);
  for (int i = 0; i < head_dim * width; ++i) scratch.output[i] = 0.0f;
  for (int r = 0; r < width; ++r) {
    scratch.row_maximum[r] = kMinusInfinity;
    scratch.row_sum[r] = 0.0f;
  }
  const int words = (job.key_blocks + 31) / 32;
  const int64_t mask_index =
      (int64_t{job.mask_bin} * call.heads + head) * job.query_blocks + query_block;
  const int32_t* mask_row = call.block_mask + mask_index * words;
  const int64_t size = int64_t{call.block_k} * head_dim;
  for (int block = 0; block < job.key_blocks; ++block) {
    const int count = job.tokens_in(block);
    if (count == 0 || !is_listed(mask_row, block)) continue;
    attend_run(job,
               {job.key + block * size, job.value + block * size, nullptr, count,
                job.key_scale[block], job.value_scale[block]},
               scratch);
  }
  if (call.pool_dropped) {
    const int groups = (job.key_blocks + call.block_k - 1) / call.block_k;
    for (int group = 0; group < groups; ++group) {
      const int count = pick_summaries(job, mask_row, group, scratch);
      if (count == 0) continue;
      attend_run(job,
                 {scratch.picked_key, scratch.picked_value, scratch.picked_bias, count,
                  job.summary_key_scale[group], job.summary_value_scale[group]},
                 scratch);
    }
  }
  write_output(job, head, query_block, rows, scratch);
}

}  // namespace paro::cpu::PARO_ISA
