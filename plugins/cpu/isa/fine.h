// Fine blocks: their groups of four summaries are gathered, and attended in steps.
#pragma once

#include "softmax.h"

namespace paro::cpu::PARO_ISA {

// What a step has for each key, and its value scale.
struct FineStep {
  alignas(64) int32_t key_start[kFineStepKeys];
  alignas(64) float key_scales[kFineStepKeys];
  alignas(64) float log2_count[kFineStepKeys];
  alignas(64) float value_share[kFineStepKeys];
  alignas(64) float value_scale[kLargestHeadDim];
};

inline void copy_words(const Word* from, int64_t count, Word* to) {
  for (int64_t i = 0; i < count; i += kVector) store(to + i, load<VectorInt>(from + i));
}

// Sets the scale of the step's values, and how large that of each group is relative to it.
inline void share_value_scales(const HeadJob& job, const int32_t* blocks, int groups,
                               FineStep& step) {
  float largest = 0.0f;
  bool finite = true;
  for (int g = 0; g < groups; ++g) {
    const float scale = job.fine.value_scale[blocks[g]];
    finite &= scale == scale;
    largest = scale > largest ? scale : largest;
  }
  for (int g = 0; g < groups; ++g) {
    const bool counts = finite && largest > 0.0f;
    const float share = counts ? job.fine.value_scale[blocks[g]] / largest : 0.0f;
    for (int i = 0; i < kFineSummaries; ++i) step.value_share[g * kFineSummaries + i] = share;
  }
  // A row's sum is in units of its own codes, of which a weight of 1 has `levels`.
  const float levels = job.call->pv_bits == 8 ? 255.0f : 15.0f;
  const float scale = finite ? largest * (levels / kStepLevels) : __builtin_nanf("");
  for (int d = 0; d < job.call->head_dim; ++d) step.value_scale[d] = scale;
}

// Gathers the summaries of the listed blocks, at most kFineStepGroups. They stay valid until the
// next step: the memory of rows and sums is free in stage 2.
inline KeyRun gather_step(const HeadJob& job, const int32_t* blocks, int groups, Scratch& scratch,
                          FineStep& step) {
  const int head_dim = job.call->head_dim, tokens = job.call->block_k / kFineSummaries;
  const int key_words = kFineSummaries * job.key_words;
  const int step_words = kFineStepKeys * job.value_words / job.call->block_k;
  const int value_words = step_words / kFineStepGroups * head_dim;
  Word* key = reinterpret_cast<Word*>(scratch.sums);
  Word* value = reinterpret_cast<Word*>(scratch.rows);
  const float full = __builtin_log2f(static_cast<float>(tokens));
  for (int g = 0; g < groups; ++g) {
    const int block = blocks[g];
    copy_words(job.fine.key + int64_t{block} * key_words, key_words, key + g * key_words);
    copy_words(job.fine.value + int64_t{block} * value_words, value_words, value + g * value_words);
    for (int i = 0; i < kFineSummaries; ++i) {
      const int k = g * kFineSummaries + i, count = job.tokens_in_run(block, i, tokens);
      step.key_scales[k] = job.fine.key_scale[block];
      step.log2_count[k] = count == tokens ? full
                           : count == 0    ? kMinusInfinity
                                           : __builtin_log2f(static_cast<float>(count));
      if (job.call->qk_bits != 16) {
        step.key_start[k] = job.fine.key_start[block * kFineSummaries + i];
      }
    }
  }
  const int count = groups * kFineSummaries;
  for (int k = count; k < kFineStepKeys; ++k) {
    step.key_start[k] = 0;
    step.key_scales[k] = step.value_share[k] = 0.0f;
    step.log2_count[k] = kMinusInfinity;
  }
  for (int i = groups * value_words; i < kFineStepGroups * value_words; ++i) value[i] = 0;
  transpose(value, head_dim, step_words, head_dim, scratch.step_value, step_words);
  const bool codes = job.value_operand == Codes::kOperand;
  if (codes) share_value_scales(job, blocks, groups, step);
  return {.key = key,
          .key_start = step.key_start,
          .value = scratch.step_value,
          .value_scale = step.value_scale,
          .log2_count = step.log2_count,
          .key_scales = step.key_scales,
          .value_share = codes ? step.value_share : nullptr,
          .key_scale = 1.0f,
          .value_words = step_words,
          .count = count,
          .next_key = nullptr,
          .next_value = nullptr};
}

}  // namespace paro::cpu::PARO_ISA
