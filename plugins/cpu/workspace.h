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

inline KeyBlocks take_blocks(Arena& arena, const HeadJob& job, int64_t count) {
  const int64_t keys = count * job.call->block_k, channels = count * job.call->head_dim;
  KeyBlocks blocks;
  blocks.key = arena.take<Word>(keys * job.key_words);
  blocks.key_start = arena.take<int32_t>(job.call->qk_bits == 16 ? 0 : keys);
  blocks.key_scale = arena.take<float>(count);
  blocks.value = arena.take<Word>(channels * job.value_words);
  blocks.value_scale = arena.take<float>(job.call->pv_bits == 16 ? 0 : channels);
  return blocks;
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
  job.tokens = take_blocks(arena, job, shape.key_blocks);
  job.summaries = take_blocks(arena, job, shape.summary_blocks);
  const int64_t means = call.pool_dropped ? int64_t{shape.key_blocks} * call.head_dim : 0;
  job.key_mean = arena.take<float>(means);
  job.value_mean = arena.take<float>(means);
  return job;
}

inline Scratch take_scratch(Arena& arena, const HeadJob& job) {
  const int64_t block_q = job.call->block_q, block_k = job.call->block_k;
  const int64_t head_dim = job.call->head_dim;
  Scratch scratch;
  scratch.rows = arena.take<float>(block_k * head_dim);
  scratch.sums = arena.take<float>(block_k * head_dim);
  scratch.query = arena.take<Word>(block_q * job.key_words);
  scratch.row_factor = arena.take<float>(block_q);
  scratch.output = arena.take<float>(block_q * head_dim);
  scratch.row_maximum = arena.take<float>(block_q);
  scratch.row_sum = arena.take<float>(block_q);
  scratch.logits = arena.take<float>(block_k * kLargestStrip);
  scratch.weights = arena.take<Word>(job.value_words * kLargestStrip);
  return scratch;
}

}  // namespace paro::cpu
