// How the caller's workspace is cut up: one head's keys and values, then scratch for each thread.
#pragma once

#include <cstddef>

#include "../common/check.h"
#include "head_job.h"

namespace paro::cpu {

// Hands out aligned pieces of the workspace; with a null base it only counts.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  float* floats(int64_t count) {
    char* piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (static_cast<size_t>(count) * sizeof(float) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<float*>(piece);
  }

  size_t used() const { return used_; }

 private:
  static constexpr size_t kAlignment = 256;
  char* base_;
  size_t used_ = 0;
};

inline void take_head(Arena& arena, const paro_attention& call, const Shape& shape, HeadJob& job) {
  const int64_t width = int64_t{call.block_k} * call.head_dim;
  job.key = arena.floats(shape.key_blocks * width);
  job.key_scale = arena.floats(shape.key_blocks);
  job.value = arena.floats(shape.key_blocks * width);
  job.value_scale = arena.floats(shape.key_blocks);
  const int64_t summarized = call.pool_dropped ? shape.key_blocks : 0;
  job.key_mean = arena.floats(summarized * call.head_dim);
  job.value_mean = arena.floats(summarized * call.head_dim);
  job.summary_key = arena.floats(shape.summary_blocks * width);
  job.summary_key_scale = arena.floats(shape.summary_blocks);
  job.summary_value = arena.floats(shape.summary_blocks * width);
  job.summary_value_scale = arena.floats(shape.summary_blocks);
}

inline TileScratch take_scratch(Arena& arena, const paro_attention& call) {
  TileScratch scratch;
  const int64_t key_size = int64_t{call.block_k} * call.head_dim;
  scratch.query = arena.floats(int64_t{call.block_q} * call.head_dim);
  scratch.row_factor = arena.floats(call.block_q);
  scratch.logits = arena.floats(int64_t{call.block_k} * call.block_q);
  scratch.output = arena.floats(int64_t{call.block_q} * call.head_dim);
  scratch.row_maximum = arena.floats(call.block_q);
  scratch.row_sum = arena.floats(call.block_q);
  scratch.picked_key = arena.floats(key_size);
  scratch.picked_value = arena.floats(key_size);
  scratch.picked_bias = arena.floats(call.block_k);
  scratch.block = arena.floats(key_size);
  return scratch;
}

}  // namespace paro::cpu
