// Smoothed keys: what the means of query and key blocks add to the logits of residuals, before
// these are attended. Exact blocks are taken in steps, so that one product serves the means of a
// whole step.
#pragma once

#include "attend_run.h"
#include "fine.h"
#include "query_rows.h"

namespace paro::cpu::PARO_ISA {

// Blocks of smoothed keys, and the codes of their means.
struct SmoothedStep {
  int32_t block[kSmoothedStep];
  int count = 0;
  alignas(64) int32_t mean_start[kSmoothedStep];
  alignas(64) float mean_scale[kSmoothedStep];
  alignas(64) float mean_row_logit[kSmoothedStep];  // of Tile::mean with the means

  bool full() const { return count == kSmoothedStep; }
};

// The means of the step's blocks, which lie among the summary keys; zeros past the last.
inline void gather_means(const HeadJob& job, SmoothedStep& step, Word* mean_key) {
  const int width = job.call->block_k;
  for (int i = 0; i < kSmoothedStep; ++i) {
    Word* to = mean_key + i * job.key_words;
    if (i >= step.count) {
      for (int k = 0; k < job.key_words; ++k) to[k] = 0;
      step.mean_start[i] = kRoundingBiasBits;
      step.mean_scale[i] = 0.0f;
      continue;
    }
    const int block = step.block[i];
    copy_words(job.summaries.key + int64_t{block} * job.key_words, job.key_words, to);
    step.mean_start[i] = job.summaries.key_start[block];
    step.mean_scale[i] = job.summaries.key_scale[block / width];
  }
}

// Logits of the rows with the means, and of the mean row.
inline void multiply_means(const Tile& tile, SmoothedStep& step) {
  const HeadJob& job = tile.job;
  const Scratch& scratch = tile.scratch;
  const int rows = (step.count + kTailRows - 1) / kTailRows * kTailRows;
  for (int strip = 0; strip < tile.strips(); ++strip) {
    const int lane = strip * kStripRows;
    float* to = scratch.smoothing.row_logits + lane * kSmoothedStep;
    Ahead none(nullptr, 0, 1);
    product<ScoreCodes>(
        {scratch.smoothing.mean_key, scratch.query + lane * job.key_words, job.key_words,
         job.key_words},
        rows, none, [&](int i, int) { return splat(step.mean_start[i]); },
        [&](int i, int v, VectorInt sum) {
          const Vector factor = load(scratch.row_factor + lane + v * kVector) * step.mean_scale[i];
          store(to + i * kStripRows + v * kVector,
                (reinterpret_cast<Vector>(sum) - kRoundingBias) * factor);
        });
  }
  if (tile.mean == nullptr) return;
  for (int i = 0; i < step.count; i += kVector) {
    const VectorInt sum = row_products<ScoreCodes>(scratch.smoothing.mean_key + i * job.key_words,
                                                   job.key_words, tile.mean->query, job.key_words) +
                          load<VectorInt>(step.mean_start + i);
    store(step.mean_row_logit + i, (reinterpret_cast<Vector>(sum) - kRoundingBias) *
                                       (tile.mean->factor * load(step.mean_scale + i)));
  }
}

// A mean of rows, apart by the place of a channel in its word of codes.
struct MeanByPlace {
  alignas(64) float channels[Codes::kPerWord][kLargestHeadDim / Codes::kPerWord];

  MeanByPlace(const float* mean, int key_words) {
    for (int k = 0; k < key_words; ++k) {
      for (int i = 0; i < Codes::kPerWord; ++i) channels[i][k] = mean[k * Codes::kPerWord + i];
    }
  }
};

// FP32 products of the mean with the codes of kVector keys, which are the lanes of the result.
inline Vector products_with_codes(const MeanByPlace& mean, const Word* key, int key_words) {
  constexpr int kBits = 32 / Codes::kPerWord;
  Vector sum[kVector] = {};
  for (int k = 0; k < key_words; k += kVector) {
    Vector channels[Codes::kPerWord];
#pragma GCC unroll 4
    for (int i = 0; i < Codes::kPerWord; ++i) channels[i] = load(mean.channels[i] + k);
#pragma GCC unroll 16
    for (int m = 0; m < kVector; ++m) {
      const VectorInt words = load<VectorInt>(key + m * key_words + k);
#pragma GCC unroll 4
      for (int i = 0; i < Codes::kPerWord; ++i) {
        const VectorInt codes = words << (32 - kBits * (i + 1)) >> (32 - kBits);
        sum[m] = sum[m] + __builtin_convertvector(codes, Vector) * channels[i];
      }
    }
  }
  return sums_of_lanes(sum);
}

// Logits of the rows' mean with the keys of the step, less the means of those.
inline void multiply_keys(const Tile& tile, const SmoothedStep& step) {
  const HeadJob& job = tile.job;
  const int width = job.call->block_k;
  const MeanByPlace mean(tile.block_mean, job.key_words);
  const float scale = base_2_scale(*job.call);
  for (int i = 0; i < step.count; ++i) {
    const int64_t first = int64_t{step.block[i]} * width;
    const float factor = job.centred.key_scale[step.block[i]] * scale;
    float* to = tile.scratch.smoothing.key_logits + i * width;
    for (int j = 0; j < job.tokens_in(step.block[i]); j += kVector) {
      const Word* key = job.centred.key + (first + j) * job.key_words;
      store(to + j, products_with_codes(mean, key, job.key_words) * factor);
    }
  }
}

// The keys of block i of the step as a mean of queries meets them. `row_logits`: of the block's
// mean.
inline KeyRun centred_run(const HeadJob& job, int64_t block, const float* row_logits) {
  KeyRun run = run_of(job, job.tokens, block, job.tokens_in(static_cast<int>(block)));
  const int64_t first = block * job.call->block_k;
  run.key = job.centred.key + first * job.key_words;
  run.key_start = job.centred.key_start + first;
  run.key_scale = job.centred.key_scale[block];
  run.row_logits = row_logits;
  return run;
}

// Attends the blocks of a step: with residuals, or with strips of mean queries.
inline void attend_step(const Tile& tile, SmoothedStep& step, AttendRun attend) {
  const HeadJob& job = tile.job;
  const SmoothingScratch& scratch = tile.scratch.smoothing;
  const int width = job.call->block_k;
  gather_means(job, step, scratch.mean_key);
  multiply_means(tile, step);
  if (tile.block_mean != nullptr) multiply_keys(tile, step);
  for (int i = 0; i < step.count; ++i) {
    const int64_t block = step.block[i];
    const float* row_logits = scratch.row_logits + i * kStripRows;
    if (tile.block_mean == nullptr) {
      attend(tile, centred_run(job, block, row_logits));
      continue;
    }
    const KeyRun of_mean_row = centred_run(job, block, step.mean_row_logit + i);
    KeyRun run = run_of(job, job.tokens, block, job.tokens_in(step.block[i]));
    run.key_scale = 1.0f;
    run.key_scales = job.tokens.key_scale + block * width;
    run.key_logits = scratch.key_logits + i * width;
    run.row_logits = row_logits;
    run.of_mean_row = &of_mean_row;
    if (i + 1 < step.count) {
      const int64_t next = step.block[i + 1];
      run.next_key = job.tokens.key + next * width * job.key_words;
      run.next_value = job.tokens.value + next * job.call->head_dim * job.value_words;
    }
    attend(tile, run);
  }
  step.count = 0;
}

}  // namespace paro::cpu::PARO_ISA
