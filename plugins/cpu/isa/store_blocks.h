// How stage 1 writes rows of keys and values, or means of them: quantized, as words.
#pragma once

#include "../head_job.h"
#include "quantize.h"

namespace paro::cpu::PARO_ISA {

// The mean of the `count` rows that exist of a run of rows, whose others are 0, in the order that
// the op specifies: add the two halves until one row is left. The first addition reads the rows and
// leaves them unchanged; the others work in `sums`, which may be the rows.
inline void mean_of_rows(const float* run, int rows, int head_dim, int count, float* sums,
                         float* mean) {
  const float* from = run;
  for (int size = rows / 2 * head_dim; size >= head_dim; size /= 2) {
    for (int i = 0; i < size; ++i) sums[i] = from[i] + from[size + i];
    from = sums;
  }
  const float divisor = static_cast<float>(count > 0 ? count : 1);
  for (int d = 0; d < head_dim; ++d) mean[d] = sums[d] / divisor;
}

// Rounds to the type of the inputs: at 16 bits, a mean is stored as the tokens are.
inline void round_to_storage(float* x, int n, int32_t dtype) {
  for (int i = 0; i < n; ++i) {
    uint32_t storage = 0;
    store_element(&storage, 0, dtype, x[i]);
    x[i] = load_element(&storage, 0, dtype);
  }
}

// Stores the codes of row `r` of keys.
inline void store_key(const HeadJob& job, const float* rows, int r, Scale s, Word* key,
                      int32_t* key_start) {
  const int head_dim = job.call->head_dim;
  const int32_t sum = store_codes(rows + r * head_dim, head_dim, s, 0,
                                  reinterpret_cast<Codes::Element*>(key + r * job.key_words));
  // With this start value, a sum ends as the bits of the float kRoundingBias + q . k.
  key_start[r] = kRoundingBiasBits - Codes::kQueryOffset * sum;
}

// Stores `count` rows of keys, with one scale, which it returns.
inline float store_keys(const HeadJob& job, const float* rows, int count, int bits, Word* key,
                        int32_t* key_start) {
  const int head_dim = job.call->head_dim;
  if (job.key_operand != Codes::kOperand) {
    store_unquantized(rows, count * head_dim, job.key_operand, key);
    return 1.0f;
  }
  const Scale s = scale_of(magnitude_of(rows, count * head_dim), bits);
  for (int r = 0; r < count; ++r) store_key(job, rows, r, s, key, key_start);
  return s.scale;
}

// The scale of one key alone, rounded to bfloat16. This moves it by 2^-9, and so no code past its
// levels.
inline Scale scale_of_key(const float* x, int head_dim, int bits) {
  float scale = scale_of(magnitude_of(x, head_dim), bits).scale;
  round_to_storage(&scale, 1, PARO_BFLOAT16);
  return {scale > 0.0f ? 1.0f / scale : 0.0f, scale};
}

// Stores `count` rows of keys, with a scale for each.
inline void store_keys_apart(const HeadJob& job, const float* rows, int count, Word* key,
                             int32_t* key_start, float* key_scale) {
  for (int r = 0; r < count; ++r) {
    const int head_dim = job.call->head_dim;
    const Scale s = scale_of_key(rows + r * head_dim, head_dim, job.call->qk_bits);
    store_key(job, rows, r, s, key, key_start);
    key_scale[r] = s.scale;
  }
}

// Rows of values [words * kPerWord][D] -> words [words][D], with neighbouring tokens in one word.
// `transform` receives a vector of channels and the number of the first channel.
template <class Kind, class Transform>
inline void pack_rows(const float* rows, int words, int head_dim, Word* packed,
                      Transform transform) {
  for (int r = 0; r < words; ++r) {
    for (int d = 0; d < head_dim; d += kVector) {
      Vector neighbours[Kind::kPerWord];
      for (int i = 0; i < Kind::kPerWord; ++i) {
        neighbours[i] = transform(load(rows + (r * Kind::kPerWord + i) * head_dim + d), d);
      }
      store(packed + r * head_dim + d, Kind::pack(neighbours));
    }
  }
}

// Rows [block_k][D] -> words [D][block_k / kPerWord].
template <class Kind, class Transform>
inline void store_value(const HeadJob& job, const float* rows, Scratch& scratch, Word* value,
                        Transform transform) {
  const int head_dim = job.call->head_dim;
  Word* packed = reinterpret_cast<Word*>(scratch.sums);
  pack_rows<Kind>(rows, job.value_words, head_dim, packed, transform);
  transpose(packed, head_dim, job.value_words, head_dim, value, job.value_words);
}

// Stores quantized values: one scale per block at 8 bits, one per channel at 4 bits.
inline void store_value_codes(const HeadJob& job, const float* rows, const KeyBlocks& to,
                              int64_t index, Scratch& scratch) {
  const int count = job.call->block_k, head_dim = job.call->head_dim, bits = job.call->pv_bits;
  alignas(64) float inverse[kLargestHeadDim];
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
                            int64_t index, int bits) {
  const int count = job.call->block_k;
  to.key_scale[index] = store_keys(job, rows, count, bits, to.key + index * count * job.key_words,
                                   to.key_start + index * count);
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

}  // namespace paro::cpu::PARO_ISA
