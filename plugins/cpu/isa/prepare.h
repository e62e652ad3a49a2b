// Stage 1: gather a head's keys and values in its order, precondition, quantize; make the means
// that summary tokens are; quantize those in blocks of their own.
#pragma once

#include "../head_job.h"
#include "quantize.h"

namespace paro::cpu::PARO_ISA {

// keys [rows][D] -> codes and scale, in place; at 16 bits the values themselves.
inline void quantize_keys(float* block, int size, int bits, float* scale) {
  *scale = 1.0f;
  if (bits == 16) return;
  const Scale s = scale_of(magnitude_of(block, size), bits);
  *scale = s.scale;
  to_codes(block, size, s);
}

// values [rows][D] -> in place. 8 bits: codes with one scale; 4 bits: a scale a channel, multiplied
// in, since it cannot be folded into a probability.
inline void quantize_values(float* block, int rows, int head_dim, int bits, float* scale) {
  if (bits != 4) return quantize_keys(block, rows * head_dim, bits, scale);
  *scale = 1.0f;
  for (int d = 0; d < head_dim; d += kVector) {
    Magnitude magnitude;
    for (int r = 0; r < rows; ++r) magnitude.add(load(block + r * head_dim + d));
    float inverse[kVector], scales[kVector];
    for (int i = 0; i < kVector; ++i) {
      const Scale s = scale_of(magnitude.largest[i], bits);
      inverse[i] = s.inverse;
      scales[i] = s.scale;
    }
    for (int r = 0; r < rows; ++r) {
      float* at = block + r * head_dim + d;
      for (int i = 0; i < kVector; ++i) {
        const float code = inverse[i] == 0.0f ? 0.0f : __builtin_rintf(at[i] * inverse[i]);
        at[i] = code * scales[i];
      }
    }
  }
}

// [rows][D] -> [D][rows], in squares that fit a cache line both ways.
inline void transpose(const float* block, int rows, int head_dim, float* transposed) {
  constexpr int kSquare = 16;
  for (int r = 0; r < rows; r += kSquare) {
    for (int d = 0; d < head_dim; d += kSquare) {
      for (int i = 0; i < kSquare; ++i) {
        for (int j = 0; j < kSquare; ++j) {
          transposed[(d + i) * rows + r + j] = block[(r + j) * head_dim + d + i];
        }
      }
    }
  }
}

// Gather block `index` of keys or values, (x - shift) * (1 / factor), zeros where no token exists.
inline void gather_block(const HeadJob& job, const void* source, int index, const float* shift,
                         const float* factor, bool preconditioned, float* out) {
  const paro_attention& call = *job.call;
  const int head_dim = call.head_dim, count = job.tokens_in(index);
  alignas(64) float reciprocal[128];
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

// Mean of a block's tokens in the order the op specifies: halves added until one is left. The
// first addition reads the block, which stays, and the others work in `sums`.
inline void block_mean(const float* block, int rows, int head_dim, int count, float* sums,
                       float* mean) {
  const float* from = block;
  for (int size = rows / 2 * head_dim; size >= head_dim; size /= 2) {
    for (int i = 0; i < size; ++i) sums[i] = from[i] + from[size + i];
    from = sums;
  }
  for (int d = 0; d < head_dim; ++d) mean[d] = sums[d] / static_cast<float>(count);
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
  const bool summarized = call.pool_dropped && count > 0;

  float* key = job.key + int64_t{index} * size;
  gather_block(job, call.key, index, affine, affine + row_size, call.qk_bits != 16, key);
  if (summarized) {
    float* mean = job.key_mean + int64_t{index} * head_dim;
    block_mean(key, rows, head_dim, count, scratch.block, mean);
    if (call.qk_bits == 16) round_to_storage(mean, head_dim, call.dtype);
  }
  quantize_keys(key, size, call.qk_bits, job.key_scale + index);

  float* value = scratch.block;
  gather_block(job, call.value, index, affine + 2 * row_size, affine + 3 * row_size,
               call.pv_bits != 16, value);
  if (summarized) {
    float* mean = job.value_mean + int64_t{index} * head_dim;
    block_mean(value, rows, head_dim, count, scratch.picked_value, mean);
    if (call.pv_bits == 16) round_to_storage(mean, head_dim, call.dtype);
  }
  quantize_values(value, rows, head_dim, call.pv_bits, job.value_scale + index);
  transpose(value, rows, head_dim, job.value + int64_t{index} * size);
}

// Summary tokens group * block_k ... of blocks that hold tokens, zeros for the others.
inline void prepare_summary_block(const HeadJob& job, int32_t group, TileScratch& scratch) {
  const paro_attention& call = *job.call;
  const int head_dim = call.head_dim, rows = call.block_k, size = rows * head_dim;
  const int first = group * rows;
  const auto fill = [&](const float* means, float* block) {
    for (int r = 0; r < rows; ++r) {
      const bool exists = first + r < job.key_blocks && job.tokens_in(first + r) > 0;
      for (int d = 0; d < head_dim; ++d) {
        block[r * head_dim + d] = exists ? means[int64_t{first + r} * head_dim + d] : 0.0f;
      }
    }
  };
  float* key = job.summary_key + int64_t{group} * size;
  fill(job.key_mean, key);
  quantize_keys(key, size, call.qk_bits, job.summary_key_scale + group);
  fill(job.value_mean, scratch.block);
  quantize_values(scratch.block, rows, head_dim, call.pv_bits, job.summary_value_scale + group);
  transpose(scratch.block, rows, head_dim, job.summary_value + int64_t{group} * size);
}

}  // namespace paro::cpu::PARO_ISA
