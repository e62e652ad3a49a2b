// How the caller's workspace is divided: the keys and values of one head, then scratch memory for
// each thread.
#pragma once

#include <cstddef>

#include "../common/check.h"
#include "head_job.h"

namespace paro::cpu {

// Hands out aligned pieces of the workspace. With a null base, it only counts bytes.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  // Memory for `count` elements of four bytes.
  template <class Element>
  Element* take(int64_t count) {
    static_assert(sizeof(Element) == 4);
    char* piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ +=
        (static_cast<size_t>(count) * sizeof(Element) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<Element*>(piece);
  }

  size_t used() const { return used_; }

 private:
  static constexpr size_t kAlignment = 256;
  char* base_;
  size_t used_ = 0;
};

constexpr int64_t kLargestStrip = 32;  // rows of a query block, next to each other in two vectors

inline int32_t elements_in_word(Operand operand) {
  switch (operand) {
    case Operand::kFloat32: return 1;
    case Operand::kBfloat16:
    case Operand::kInt16: return 2;
    case Operand::kInt8: return 4;
  }
  return 1;
}

inline Operand operand_for(const HeadKernels& kernels, int32_t bits, int32_t dtype) {
  if (bits != 16) return kernels.codes;
  const bool bfloat16 = dtype == PARO_BFLOAT16 && kernels.multiplies_bfloat16;
  return bfloat16 ? Operand::kBfloat16 : Operand::kFloat32;
}

// `values`: the number of blocks of values.
inline KeyBlocks take_blocks(Arena& arena, const HeadJob& job, int64_t count, int64_t key_scales,
                             int64_t values) {
  const int64_t keys = count * job.call->block_k, channels = values * job.call->head_dim;
  KeyBlocks blocks;
  blocks.key = arena.take<Word>(keys * job.key_words);
  blocks.key_start = arena.take<int32_t>(job.call->qk_bits == 16 ? 0 : keys);
  blocks.key_scale = arena.take<float>(key_scales);
  blocks.value = arena.take<Word>(channels * job.value_words);
  blocks.value_scale = arena.take<float>(job.call->pv_bits == 16 ? 0 : channels);
  return blocks;
}

inline CentredKeys take_centred_keys(Arena& arena, const HeadJob& job, int64_t count) {
  const int64_t keys = count * job.call->block_k;
  CentredKeys centred;
  centred.key = arena.take<Word>(keys * job.key_words);
  centred.key_start = arena.take<int32_t>(keys);
  centred.key_scale = arena.take<float>(count);
  return centred;
}

inline FineGroups take_fine_groups(Arena& arena, const HeadJob& job, int64_t count) {
  const int64_t keys = count * kFineSummaries;
  FineGroups groups;
  groups.key = arena.take<Word>(keys * job.key_words);
  groups.key_start = arena.take<int32_t>(job.call->qk_bits == 16 ? 0 : keys);
  groups.key_scale = arena.take<float>(count);
  groups.value =
      arena.take<Word>(keys * job.call->head_dim / elements_in_word(job.value_operand));
  groups.value_scale = arena.take<float>(job.call->pv_bits == 16 ? 0 : count);
  return groups;
}

// A product reads whole tiles of rows: up to this many past the last block.
constexpr int64_t kRowsPastBlocks = 4;

inline RoutingMeans take_routing_means(Arena& arena, const HeadJob& job) {
  const int64_t runs = int64_t{job.routing_runs} * job.call->head_dim;
  const int64_t blocks = (job.key_blocks + kRowsPastBlocks) * job.call->head_dim;
  RoutingMeans means;
  means.key = arena.take<float>(runs);
  means.value = arena.take<float>(runs);
  means.value_of_channel = arena.take<float>(runs);
  means.block_key = arena.take<float>(blocks);
  means.block_value = arena.take<float>(blocks);
  return means;
}

inline MeanQueries take_mean_queries(Arena& arena, const HeadJob& job) {
  const int64_t rows = int64_t{job.mean_queries} * (job.call->heads / job.call->kv_heads);
  MeanQueries means;
  means.query = arena.take<Word>(rows * job.key_words);
  means.factor = arena.take<float>(rows);
  means.dense = arena.take<float>(rows * job.call->head_dim);
  return means;
}

// The parts of a job that are the same for every head. `arena` supplies the memory.
inline HeadJob make_job(Arena& arena, const paro_attention& call, const HeadKernels& kernels) {
  const Shape shape = Shape::of(call);
  HeadJob job{};
  job.call = &call;
  job.key_blocks = shape.key_blocks;
  job.query_blocks = shape.query_blocks;
  job.key_operand = operand_for(kernels, call.qk_bits, call.dtype);
  job.value_operand = operand_for(kernels, call.pv_bits, call.dtype);
  job.key_words = call.head_dim / elements_in_word(job.key_operand);
  job.value_words = call.block_k / elements_in_word(job.value_operand);
  const bool means = call.pool_dropped || call.smoothing;
  job.summary_blocks = means ? (shape.key_blocks + call.block_k - 1) / call.block_k : 0;
  const int64_t summary_values = call.pool_dropped ? job.summary_blocks : 0;
  const int64_t keys = int64_t{shape.key_blocks} * call.block_k;
  job.tokens = take_blocks(arena, job, shape.key_blocks, call.smoothing ? keys : shape.key_blocks,
                           shape.key_blocks);
  job.summaries = take_blocks(arena, job, job.summary_blocks, job.summary_blocks, summary_values);
  const int64_t channels = int64_t{shape.key_blocks} * call.head_dim;
  job.key_mean = arena.take<float>(means ? channels : 0);
  job.value_mean = arena.take<float>(call.pool_dropped ? channels : 0);
  if (call.smoothing) job.centred = take_centred_keys(arena, job, shape.key_blocks);
  if (call.fine_summaries) job.fine = take_fine_groups(arena, job, shape.key_blocks);
  job.routing_runs = shape.key_blocks * (call.block_k / kRoutingRun);
  job.query_runs = shape.query_blocks * (call.block_q / kRoutingRun);
  job.mean_queries = (call.tokens + kCorrectionRows - 1) / kCorrectionRows;
  if (call.routing) {
    job.routing = take_routing_means(arena, job);
    const int64_t rows = int64_t{call.heads / call.kv_heads} * shape.query_blocks;
    job.routed_mask = arena.take<int32_t>(rows * shape.mask_words);
  }
  if (call.mean_correction) job.means = take_mean_queries(arena, job);
  return job;
}

inline RoutingScratch take_routing_scratch(Arena& arena, const HeadJob& job) {
  const int64_t head_dim = job.call->head_dim;
  RoutingScratch scratch;
  scratch.query = arena.take<float>(head_dim * kLargestStrip);
  scratch.weight = arena.take<float>(job.routing_runs * kLargestStrip);
  scratch.summary = arena.take<float>((job.key_blocks + kRowsPastBlocks) * kLargestStrip);
  scratch.output = arena.take<float>(head_dim * kLargestStrip);
  scratch.error = arena.take<float>(job.key_blocks * kLargestStrip);
  return scratch;
}

inline SmoothingScratch take_smoothing_scratch(Arena& arena, const HeadJob& job) {
  const int64_t block_q = job.call->block_q;
  SmoothingScratch scratch;
  scratch.residual = arena.take<Word>(block_q * job.key_words);
  scratch.factor = arena.take<float>(block_q);
  scratch.mean_key = arena.take<Word>(int64_t{kSmoothedStep} * job.key_words);
  scratch.row_logits = arena.take<float>(kSmoothedStep * block_q);
  scratch.key_logits = arena.take<float>(int64_t{kSmoothedStep} * job.call->block_k);
  return scratch;
}

inline Scratch take_scratch(Arena& arena, const HeadJob& job) {
  const int64_t block_q = job.call->block_q, block_k = job.call->block_k;
  const int64_t head_dim = job.call->head_dim;
  Scratch scratch{};
  scratch.rows = arena.take<float>(block_k * head_dim);
  scratch.sums = arena.take<float>(block_k * head_dim);
  scratch.query = arena.take<Word>(block_q * job.key_words);
  scratch.row_factor = arena.take<float>(block_q);
  scratch.output = arena.take<float>(block_q * head_dim);
  scratch.row_maximum = arena.take<float>(block_q);
  scratch.row_sum = arena.take<float>(block_q);
  scratch.logits = arena.take<float>(block_k * kLargestStrip);
  scratch.weights = arena.take<Word>(job.value_words * kLargestStrip);
  if (job.call->fine_summaries) {
    scratch.step_value =
        arena.take<Word>(head_dim * kFineStepKeys / elements_in_word(job.value_operand));
  }
  if (job.call->routing) scratch.routing = take_routing_scratch(arena, job);
  if (job.call->smoothing) scratch.smoothing = take_smoothing_scratch(arena, job);
  return scratch;
}

}  // namespace paro::cpu
