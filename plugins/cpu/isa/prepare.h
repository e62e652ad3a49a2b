// Stage 1: gathers the keys and values of a head in its order, preconditions and quantizes them.
// Then it computes the means that are the summary tokens, and quantizes those in their own blocks.
#pragma once

#include "rotation.h"
#include "store_blocks.h"

namespace paro::cpu::PARO_ISA {

// Keys or values (x - shift) * (1 / factor), rotated where there are signs, or as they come.
struct Preconditioning {
  bool none;
  const float* shift;                             // [D]
  const int32_t* signs;                           // [D]; or null
  alignas(64) float reciprocal[kLargestHeadDim];  // [D]

  Preconditioning(const HeadJob& job, paro_affine_row mean, paro_affine_row factor, int bits,
                  const int32_t* rotation_signs)
      : none(bits == 16), shift(row_of(job, mean)), signs(rotation_signs) {
    const float* from = row_of(job, factor);
    for (int d = 0; d < job.call->head_dim; ++d) reciprocal[d] = 1.0f / from[d];
  }

  void apply(float* row, int head_dim) const {
    for (int d = 0; d < head_dim; d += kVector) {
      store(row + d, (load(row + d) - load_unaligned(shift + d)) * load(reciprocal + d));
    }
    if (signs != nullptr) rotate(row, signs, head_dim);
  }

 private:
  static const float* row_of(const HeadJob& job, paro_affine_row row) {
    return job.call->channel_affine +
           (row * job.call->kv_heads + job.kv_head) * job.call->head_dim;
  }
};

// Gathers block `index` of keys or values, with zeros past the end. Preconditions each row while it
// is in the first cache; `change` null: leaves the rows as they come.
inline void gather_block(const HeadJob& job, const void* source, int index,
                         const Preconditioning* change, float* out) {
  const paro_attention& call = *job.call;
  const int head_dim = call.head_dim, count = job.tokens_in(index);
  const auto element = [&](int r) {
    const int64_t token = job.order[index * call.block_k + r];
    return ((job.sample * int64_t{call.tokens} + token) * call.kv_heads + job.kv_head) * head_dim;
  };
  const auto ask_for = [&](int r) __attribute__((always_inline)) {
    if (r < count) prefetch_row(source, element(r), head_dim, call.dtype);
  };
  for (int r = 0; r < kRowsAhead; ++r) ask_for(r);
  for (int r = 0; r < count; ++r) {
    ask_for(r + kRowsAhead);
    float* to = out + r * head_dim;
    load_row(source, element(r), head_dim, call.dtype, to);
    if (change != nullptr) change->apply(to, head_dim);
  }
  for (int i = count * head_dim; i < call.block_k * head_dim; ++i) out[i] = 0.0f;
}

// The means of the four runs of a block in scratch.rows: [4][D].
inline void fine_means(const HeadJob& job, int index, int bits, Scratch& scratch, float* means) {
  const paro_attention& call = *job.call;
  const int rows = call.block_k / kFineSummaries;
  for (int i = 0; i < kFineSummaries; ++i) {
    mean_of_rows(scratch.rows + i * rows * call.head_dim, rows, call.head_dim,
                 job.tokens_in_run(index, i, rows), scratch.sums, means + i * call.head_dim);
  }
  if (bits == 16) round_to_storage(means, kFineSummaries * call.head_dim, call.dtype);
}

inline void store_fine_keys(const HeadJob& job, int index, Scratch& scratch) {
  alignas(64) float means[kFineSummaries * kLargestHeadDim];
  fine_means(job, index, job.call->qk_bits, scratch, means);
  const int64_t first = int64_t{index} * kFineSummaries;
  job.fine.key_scale[index] =
      store_keys(job, means, kFineSummaries, job.summary_key_bits(),
                 job.fine.key + first * job.key_words, job.fine.key_start + first);
}

// Stores the keys of a block in scratch.rows less their mean, at both precisions.
inline void store_smoothed_keys(const HeadJob& job, int index, Scratch& scratch) {
  const int head_dim = job.call->head_dim, block_k = job.call->block_k;
  const int64_t first = int64_t{index} * block_k;
  const float* mean = job.key_mean + int64_t{index} * head_dim;
  const int count = job.tokens_in(index);  // rows past it stay zeros
  keep_rounded(scratch.rows);
  for (int r = 0; r < count; ++r) {
    float* row = scratch.rows + r * head_dim;
    for (int d = 0; d < head_dim; d += kVector) store(row + d, load(row + d) - load(mean + d));
  }
  const int64_t word = first * job.key_words;
  store_keys_apart(job, scratch.rows, block_k, job.tokens.key + word, job.tokens.key_start + first,
                   job.tokens.key_scale + first);
  job.centred.key_scale[index] = store_keys(job, scratch.rows, block_k, job.summary_key_bits(),
                                            job.centred.key + word, job.centred.key_start + first);
}

inline void store_fine_values(const HeadJob& job, int index, Scratch& scratch) {
  const int head_dim = job.call->head_dim;
  alignas(64) float means[kFineSummaries * kLargestHeadDim];
  fine_means(job, index, job.call->pv_bits, scratch, means);
  const int words = kFineSummaries * job.value_words / job.call->block_k;
  Word* to = job.fine.value + int64_t{index} * words * head_dim;
  if (job.value_operand == Codes::kOperand) {
    const Scale s = scale_of(magnitude_of(means, kFineSummaries * head_dim), 8);
    job.fine.value_scale[index] = s.scale;
    const Vector inverse = splat(s.inverse);
    return pack_rows<ValueCodes>(means, words, head_dim, to,
                                 [&](Vector x, int) { return code_of(x, inverse); });
  }
  const auto as_it_is = [](Vector x, int) { return x; };
  if constexpr (kMultipliesBfloat16) {
    if (job.value_operand == Operand::kBfloat16) {
      return pack_rows<Bfloat16>(means, words, head_dim, to, as_it_is);
    }
  }
  pack_rows<Float32>(means, words, head_dim, to, as_it_is);
}

// Where the means go that routing takes of keys, or of values.
struct RunMeans {
  float* run;         // [R][D]
  float* block;       // [NK][D]
  float* of_channel;  // [D][R]; null: not needed
};

// The means of a block in scratch.rows and of its runs, as routing takes them.
inline void store_run_means(const HeadJob& job, int index, const RunMeans& means,
                            Scratch& scratch) {
  const paro_attention& call = *job.call;
  const int head_dim = call.head_dim, runs = call.block_k / kRoutingRun;
  const int64_t first = int64_t{index} * runs;
  float* run = means.run + first * head_dim;
  for (int i = 0; i < runs; ++i) {
    mean_of_rows(scratch.rows + i * kRoutingRun * head_dim, kRoutingRun, head_dim,
                 job.tokens_in_run(index, i, kRoutingRun), scratch.sums, run + i * head_dim);
  }
  round_to_storage(run, runs * head_dim, call.dtype);
  float* block = means.block + int64_t{index} * head_dim;
  mean_of_rows(scratch.rows, call.block_k, head_dim, job.tokens_in(index), scratch.sums, block);
  round_to_storage(block, head_dim, call.dtype);
  if (means.of_channel == nullptr) return;
  for (int d = 0; d < head_dim; ++d) {
    float* to = means.of_channel + int64_t{d} * job.routing_runs + first;
    for (int i = 0; i < runs; ++i) to[i] = run[i * head_dim + d];
  }
}

// Gathers a block; where routing needs the means of its rows as they come, these are written first.
inline void gather_block_and_means(const HeadJob& job, const void* source, int index,
                                   const Preconditioning& change, const RunMeans& means,
                                   Scratch& scratch) {
  const int head_dim = job.call->head_dim;
  if (job.call->routing == 0) {
    return gather_block(job, source, index, change.none ? nullptr : &change, scratch.rows);
  }
  gather_block(job, source, index, nullptr, scratch.rows);
  store_run_means(job, index, means, scratch);
  if (change.none) return;
  const int count = job.tokens_in(index);
  for (int r = 0; r < count; ++r) change.apply(scratch.rows + r * head_dim, head_dim);
}

inline void prepare_key_block(const HeadJob& job, int32_t index, Scratch& scratch) {
  const paro_attention& call = *job.call;
  const int head_dim = call.head_dim;
  const int count = job.tokens_in(index);
  if (count == 0) return;  // nothing reads a block without tokens
  const auto summarize = [&](float* means, int bits) {
    float* mean = means + int64_t{index} * head_dim;
    mean_of_rows(scratch.rows, call.block_k, head_dim, count, scratch.sums, mean);
    if (bits == 16) round_to_storage(mean, head_dim, call.dtype);
  };
  gather_block_and_means(job, call.key, index,
                         {job, PARO_KEY_MEAN, PARO_EQUALIZER, call.qk_bits, job.signs},
                         {job.routing.key, job.routing.block_key, nullptr}, scratch);
  if (job.summary_blocks > 0) summarize(job.key_mean, call.qk_bits);
  if (call.fine_summaries) store_fine_keys(job, index, scratch);
  if (call.smoothing) {
    store_smoothed_keys(job, index, scratch);
  } else {
    store_key_block(job, scratch.rows, job.tokens, index, call.qk_bits);
  }

  gather_block_and_means(
      job, call.value, index, {job, PARO_VALUE_MEAN, PARO_VALUE_SCALE, call.pv_bits, nullptr},
      {job.routing.value, job.routing.block_value, job.routing.value_of_channel}, scratch);
  if (call.pool_dropped) summarize(job.value_mean, call.pv_bits);
  if (call.fine_summaries) store_fine_values(job, index, scratch);
  store_value_block(job, scratch.rows, job.tokens, index, scratch);
}

// Prepares block `group` of the summary tokens, with zeros for key blocks that hold no tokens.
// Without pooling, only the keys have a use.
inline void prepare_summary_block(const HeadJob& job, int32_t group, Scratch& scratch) {
  const int head_dim = job.call->head_dim, rows = job.call->block_k;
  const int first = group * rows;
  const auto gather_means = [&](const float* means) {
    for (int r = 0; r < rows; ++r) {
      const bool exists = first + r < job.key_blocks && job.tokens_in(first + r) > 0;
      for (int d = 0; d < head_dim; ++d) {
        scratch.rows[r * head_dim + d] = exists ? means[int64_t{first + r} * head_dim + d] : 0.0f;
      }
    }
  };
  gather_means(job.key_mean);
  store_key_block(job, scratch.rows, job.summaries, group, job.summary_key_bits());
  if (!job.call->pool_dropped) return;
  gather_means(job.value_mean);
  store_value_block(job, scratch.rows, job.summaries, group, scratch);
}

}  // namespace paro::cpu::PARO_ISA
