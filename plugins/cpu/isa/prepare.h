// Stage 1: gather a head's keys and values in its order, precondition, quantize; make the means
// that summary tokens are; quantize those in blocks of their own.
#pragma once

#include "../head_job.h"
#include "quantize.h"

namespace paro::cpu::PARO_ISA {

// keys [count of block_k][D] -> codes and scale; at 16 bits the values themselves.
inline void quantize_keys(const float* block, int rows, int head_dim, int bits, float* codes,
                          float* scale) {
  const int size = rows * head_dim;
  Scale s{1.0f, 1.0f};
  if (bits != 16) {
    Magnitude magnitude;
    for (int i = 0; i < size; ++i) magnitude.add(block[i]);
    s = scale_of(magnitude.maximum, magnitude.finite, bits);
  }
  *scale = s.scale;
  for (int i = 0; i < size; ++i) codes[i] = bits == 16 ? block[i] : code_of(block[i], s);
}

// values [block_k][D] -> transposed [D][block_k]. 8 bits: codes with one scale; 4 bits: a scale a
// channel, multiplied in, since it cannot be folded into a probability.
inline void quantize_values(const float* block, int rows, int head_dim, int bits, float* transposed,
                            float* scale) {
  *scale = 1.0f;
  Scale s{1.0f, 1.0f};
  if (bits == 8) {
    Magnitude magnitude;
    for (int i = 0; i < rows * head_dim; ++i) magnitude.add(block[i]);
    s = scale_of(magnitude.maximum, magnitude.finite, bits);
    *scale = s.scale;
  }
  for (int d = 0; d < head_dim; ++d) {
    if (bits == 4) {
      Magnitude magnitude;
      for (int r = 0; r < rows; ++r) magnitude.add(block[r * head_dim + d]);
      s = scale_of(magnitude.maximum, magnitude.finite, bits);
    }
    float* row = transposed + d * rows;
    for (int r = 0; r < rows; ++r) {
      const float x = block[r * head_dim + d];
      row[r] = bits == 16 ? x : bits == 8 ? code_of(x, s) : code_of(x, s) * s.scale;
    }
  }
}

// Gather block `index` of keys or values, (x - shift) * (1 / factor), zeros where no token exists.
inline void gather_block(const HeadJob& job, const void* source, int index, const float* shift,
                         const float* factor, bool preconditioned, float* out) {
  const paro_attention& call = *job.call;
  const int head_dim = call.head_dim, count = job.tokens_in(index);
  float reciprocal[128];
  for (int d = 0; d < head_dim; ++d) reciprocal[d] = 1.0f / factor[d];
  for (int r = 0; r < count; ++r) {
    const int64_t token = job.order[index * call.block_k + r];
    const int64_t row = (job.sample * int64_t{call.tokens} + token) * call.kv_heads + job.kv_head;
    float* to = out + r * head_dim;
    load_row(source, row, head_dim, call.dtype, to);
    if (preconditioned) {
      for (int d = 0; d < head_dim; ++d) to[d] = (to[d] - shift[d]) * reciprocal[d];
    }
  }
  for (int i = count * head_dim; i < call.block_k * head_dim; ++i) out[i] = 0.0f;
}

// Mean of a block's tokens in the order the op specifies: halves added until one is left.
// Destroys the block.
inline void block_mean(float* block, int rows, int head_dim, int count, float* mean) {
  for (int half = rows / 2; half > 0; half /= 2) {
    for (int i = 0; i < half * head_dim; ++i) block[i] = block[i] + block[half * head_dim + i];
  }
  for (int d = 0; d < head_dim; ++d) mean[d] = block[d] / static_cast<float>(count);
}

// At 16 bits a summary token is stored in the inputs' type, as the tokens are.
inline void round_to_storage(float* x, int n, int32_t dtype) {
  for (int i = 0; i < n; ++i) {
    uint32_t storage = 0;
    store_element(&storage, 0, dtype, x[i]);
    x[i] = load_element(&storage, 0, dtype);
  }
}

inline void prepare_key_block(const HeadJob& job, int32_t index, TileScratch& scratch) {
  const paro_attention& call = *job.call;
  const int head_dim = call.head_dim, rows = call.block_k, size = rows * head_dim;
  const float* affine = call.channel_affine + job.kv_head * head_dim;
  const int row_size = call.kv_heads * head_dim;
  const int count = job.tokens_in(index);
  float* block = scratch.block;

  gather_block(job, call.key, index, affine, affine + row_size, call.qk_bits != 16, block);
  quantize_keys(block, rows, head_dim, call.qk_bits, job.key + int64_t{index} * size,
                job.key_scale + index);
  if (call.pool_dropped && count > 0) {
    float* mean = job.key_mean + int64_t{index} * head_dim;
    block_mean(block, rows, head_dim, count, mean);
    if (call.qk_bits == 16) round_to_storage(mean, head_dim, call.dtype);
  }

  gather_block(job, call.value, index, affine + 2 * row_size, affine + 3 * row_size,
               call.pv_bits != 16, block);
  quantize_values(block, rows, head_dim, call.pv_bits, job.value + int64_t{index} * size,
                  job.value_scale + index);
  if (call.pool_dropped && count > 0) {
    float* mean = job.value_mean + int64_t{index} * head_dim;
    block_mean(block, rows, head_dim, count, mean);
    if (call.pv_bits == 16) round_to_storage(mean, head_dim, call.dtype);
  }
}

// Summary tokens group * block_k ... of blocks that hold tokens, zeros for the others.
inline void prepare_summary_block(const HeadJob& job, int32_t group, TileScratch& scratch) {
  const paro_attention& call = *job.call;
  const int head_dim = call.head_dim, rows = call.block_k, size = rows * head_dim;
  const int first = group * rows;
  float* block = scratch.block;
  auto fill = [&](const float* means) {
    for (int r = 0; r < rows; ++r) {
      const bool exists = first + r < job.key_blocks && job.tokens_in(first + r) > 0;
      for (int d = 0; d < head_dim; ++d) {
        block[r * head_dim + d] = exists ? means[int64_t{first + r} * head_dim + d] : 0.0f;
      }
    }
  };
  fill(job.key_mean);
  quantize_keys(block, rows, head_dim, call.qk_bits, job.summary_key + int64_t{group} * size,
                job.summary_key_scale + group);
  fill(job.value_mean);
  quantize_values(block, rows, head_dim, call.pv_bits, job.summary_value + int64_t{group} * size,
                  job.summary_value_scale + group);
}

}  // namespace paro::cpu::PARO_ISA
