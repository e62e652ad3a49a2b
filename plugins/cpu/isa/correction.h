// Mean correction, before stage 2: the mean query of each run of rows, and what it attends to if
// nothing is dropped. What it attends to of a query block's keys is computed with that block
// (mean_row.h).
#pragma once

#include "attend.h"

namespace paro::cpu::PARO_ISA {

// The number of runs of rows that exist.
inline int existing_means(const HeadJob& job) {
  return (job.length + kCorrectionRows - 1) / kCorrectionRows;
}

inline void prepare_mean_query(const HeadJob& job, int32_t head, int32_t run, Scratch& scratch) {
  if (!job.is_corrected(head) || run >= existing_means(job)) return;
  const paro_attention& call = *job.call;
  alignas(64) float mean[kLargestHeadDim];
  mean_of_queries(job, head, run * kCorrectionRows, kCorrectionRows, scratch, mean);
  if (call.qk_bits == 16) round_to_storage(mean, call.head_dim, call.dtype);
  const int64_t index = int64_t{job.in_group(head)} * job.mean_queries + run;
  job.means.factor[index] =
      QueryWriter(job).write(mean, job.means.query + index * job.key_words);
}

// Attends all tokens with one strip of mean queries.
inline void attend_mean_queries(const HeadJob& job, int32_t head, int32_t strip, Scratch& scratch) {
  const int first = strip * kStripRows, rest = existing_means(job) - first;
  if (!job.is_corrected(head) || rest <= 0) return;
  const Tile tile{job, scratch, rest < kStripRows ? rest : kStripRows, nullptr, nullptr};
  const int64_t index = int64_t{job.in_group(head)} * job.mean_queries + first;
  alignas(64) Word words[kStripRows * kLargestHeadDim] = {};
  copy_words(job.means.query + index * job.key_words, int64_t{tile.rows} * job.key_words, words);
  transpose(words, job.key_words, kStripRows, job.key_words, scratch.query, kStripRows);
  for (int r = 0; r < kStripRows; ++r) {
    scratch.row_factor[r] = r < tile.rows ? job.means.factor[index + r] : 0.0f;
  }
  clear(tile);
  attend_exact(tile, {nullptr, nullptr}, find_attend_run(job));

  const int head_dim = job.call->head_dim;
  const OutputScale scale(job);
  alignas(64) float rows[kStripRows * kLargestHeadDim];
  transpose(scratch.output, kStripRows, head_dim, kStripRows, rows, head_dim);
  for (int r = 0; r < tile.rows; ++r) {
    scale.apply(rows + r * head_dim, head_dim, scratch.row_sum[r]);
    copy_row(rows + r * head_dim, head_dim, job.means.dense + (index + r) * head_dim);
  }
}

}  // namespace paro::cpu::PARO_ISA
