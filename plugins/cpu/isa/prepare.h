// Stage 1: gathers the keys and values of a head in its order, preconditions and quantizes them.
// Then it computes the means that are the summary tokens, and quantizes those in their own blocks.
#pragma once

#include "../head_job.h"
#include "quantize.h"

namespace paro::cpu::PARO_ISA {

// Gathers block `index` of keys or values as (x - shift) * (1 / factor), with zeros past the end.
inline void gather_block(const HeadJob& job, const void* source, int index, const float* shift,
                         const float* factor, bool preconditioned, float* out) {
  const paro_attention& call = *job.call;
  const int head_dim = call.head_dim, count = job.tokens_in(index);
  alignas(64) float reciprocal[128];
  for (int d = 0; d < head_dim; ++d) reciprocal[d] = 1.0f / factor[d];
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
    if (!preconditioned) continue;
    for (int d = 0; d < head_dim; d += kVector) {
      store(to + d, (load(to + d) - load_unaligned(shift + d)) * load(reciprocal + d));
    }
  }
  for (int i = count * head_dim; i < call.block_k * head_dim; ++i) out[i] = 0.0f;
}

// The mean of a block's tokens in the order that the op specifies: add the two halves until one row
// is left. The first addition reads the block and leaves it unchanged; the others work in `sums`.
inline void block_mean(const float* block, int rows, int head_dim, int count, float* sums,
                       float* mean) {
  const float* from = block;
  for (int size = rows / 2 * head_dim; size >= head_dim; size /= 2) {
    for (int i = 0; i < size; ++i) sums[i] = from[i] + from[size + i];
    from = sums;
  }
  for (int d = 0; d < head_dim; ++d) mean[d] = sums[d] / static_cast<float>(count);
}

// At 16 bits, a summary token is stored in the type of the inputs, as the tokens are.
inline void round_to_storage(float* x, int n, int32_t dtype) {
  for (int i = 0; i < n; ++i) {
    uint32_t storage = 0;
    store_element(&storage, 0, dtype, x[i]);
    x[i] = load_element(&storage, 0, dtype);
  }
}

// Stores keys quantized with one scale per block.
inline void store_key_codes(const HeadJob& job, const float* rows, const KeyBlocks& to,
                            int64_t index) {
  const int count = job.call->block_k, head_dim = job.call->head_dim;
  const Scale s = scale_of(magnitude_of(rows, count * head_dim), job.call->qk_bits);
  to.key_scale[index] = s.scale;
  Word* key = to.key + index * count * job.key_words;
  int32_t* start = to.key_start + index * count;
  for (int r = 0; r < count; ++r) {
    const int32_t sum = store_codes(rows + r * head_dim, head_dim, s, 0,
                                    reinterpret_cast<Codes::Element*>(key + r * job.key_words));
    // With this start value, a sum ends as the bits of the float kRoundingBias + q . k.
    start[r] = kRoundingBiasBits - Codes::kQueryOffset * sum;
  }
}

// Rows [block_k][D] -> words [D][block_k / kPerWord], with neighbouring tokens in one word.
// `transform` receives a vector of channels and the number of the first channel.
template <class Kind, class Transform>
inline void store_value(const HeadJob& job, const float* rows, Scratch& scratch, Word* value,
                        Transform transform) {
  const int head_dim = job.call->head_dim;
  Word* packed = reinterpret_cast<Word*>(scratch.sums);
  for (int r = 0; r < job.value_words; ++r) {
    for (int d = 0; d < head_dim; d += kVector) {
      Vector neighbours[Kind::kPerWord];
      for (int i = 0; i < Kind::kPerWord; ++i) {
        neighbours[i] = transform(load(rows + (r * Kind::kPerWord + i) * head_dim + d), d);
      }
      store(packed + r * head_dim + d, Kind::pack(neighbours));
    }
  }
  transpose(packed, head_dim, job.value_words, head_dim, value, job.value_words);
}

// Stores quantized values: one scale per block at 8 bits, one per channel at 4 bits.
inline void store_value_codes(const HeadJob& job, const float* rows, const KeyBlocks& to,
                              int64_t index, Scratch& scratch) {
  const int count = job.call->block_k, head_dim = job.call->head_dim, bits = job.call->pv_bits;
  alignas(64) float inverse[128];
  float* scale = to.value_scale + index * head_dim;
  const auto set_scale = [&](int channel, Scale s) {
    inverse[channel] = s.inverse;
    scale[channel] = s.scale;
  };
  if (bits == 8) {
    const Scale s = scale_of(magnitude_of(rows, count * head_dim), bits);
    for (int d = 0; d < head_dim; ++d) set_scale(d, s);
  } else {
    for (int d = 0; d < head_dim; d += kVector) {
      Magnitude magnitude;
      for (int r = 0; r < count; ++r) magnitude.add(load(rows + r * head_dim + d));
      for (int i = 0; i < kVector; ++i) set_scale(d + i, scale_of(magnitude.largest[i], bits));
    }
  }
  store_value<ValueCodes>(job, rows, scratch, to.value + index * head_dim * job.value_words,
                          [&](Vector x, int d) { return code_of(x, load(inverse + d)); });
}

inline void store_key_block(const HeadJob& job, const float* rows, const KeyBlocks& to,
                            int64_t index) {
  if (job.key_operand == Codes::kOperand) return store_key_codes(job, rows, to, index);
  to.key_scale[index] = 1.0f;
  const int size = job.call->block_k * job.key_words;
  store_unquantized(rows, job.call->block_k * job.call->head_dim, job.key_operand,
                    to.key + index * size);
}

inline void store_value_block(const HeadJob& job, const float* rows, const KeyBlocks& to,
                              int64_t index, Scratch& scratch) {
  if (job.value_operand == Codes::kOperand) {
    return store_value_codes(job, rows, to, index, scratch);
  }
  Word* value = to.value + index * job.call->head_dim * job.value_words;
  const auto as_it_is = [](Vector x, int) { return x; };
  if constexpr (kMultipliesBfloat16) {
    if (job.value_operand == Operand::kBfloat16) {
      return store_value<Bfloat16>(job, rows, scratch, value, as_it_is);
    }
  }
  store_value<Float32>(job, rows, scratch, value, as_it_is);
}

inline void prepare_key_block(const HeadJob& job, int32_t index, Scratch& scratch) {
  const paro_attention& call = *job.call;
  const int head_dim = call.head_dim, rows = call.block_k;
  const float* affine = call.channel_affine + job.kv_head * head_dim;
  const int row_size = call.kv_heads * head_dim;
  const int count = job.tokens_in(index);
  if (count == 0) return;  // nothing reads a block without tokens
  const auto summarize = [&](float* means, int bits) {
    if (!call.pool_dropped) return;
    float* mean = means + int64_t{index} * head_dim;
    block_mean(scratch.rows, rows, head_dim, count, scratch.sums, mean);
    if (bits == 16) round_to_storage(mean, head_dim, call.dtype);
  };
  gather_block(job, call.key, index, affine + PARO_KEY_MEAN * row_size,
               affine + PARO_EQUALIZER * row_size, call.qk_bits != 16, scratch.rows);
  summarize(job.key_mean, call.qk_bits);
  store_key_block(job, scratch.rows, job.tokens, index);

  gather_block(job, call.value, index, affine + PARO_VALUE_MEAN * row_size,
               affine + PARO_VALUE_SCALE * row_size,
               call.pv_bits != 16, scratch.rows);
  summarize(job.value_mean, call.pv_bits);
  store_value_block(job, scratch.rows, job.tokens, index, scratch);
}

// Prepares block `group` of the summary tokens, with zeros for key blocks that hold no tokens.
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
  store_key_block(job, scratch.rows, job.summaries, group);
  gather_means(job.value_mean);
  store_value_block(job, scratch.rows, job.summaries, group, scratch);
}

}  // namespace paro::cpu::PARO_ISA
