// One query row alone: the mean query of a correction, which attends what a tile attends. Keys lie
// next to each other in vectors. As one more row of the tile it would need a strip of its own.
#pragma once

#include "quantize.h"
#include "softmax.h"

namespace paro::cpu::PARO_ISA {

// The row while it is computed.
struct MeanRow {
  const Word* query;  // [key_words]
  float factor;       // as Scratch::row_factor
  float maximum = kMinusInfinity;
  float sum = 0.0f;
  alignas(64) float output[kLargestHeadDim] = {};
};

// The sum of the lanes of each vector, as the lanes of one.
template <class Sum>
inline Sum sums_of_lanes(const Sum sum[kVector]) {
  VectorInt square[kVector];
#pragma GCC unroll 16
  for (int m = 0; m < kVector; ++m) square[m] = reinterpret_cast<VectorInt>(sum[m]);
  transpose_square(square);
  Sum total{};
#pragma GCC unroll 16
  for (int m = 0; m < kVector; ++m) total += reinterpret_cast<Sum>(square[m]);
  return total;
}

// sum over k of A[m][k] * b[k], for kVector rows m of A, which are the lanes of the result. `depth`
// is a multiple of kVector.
template <class Kind>
inline typename Kind::Sum row_products(const Word* a, int stride, const Word* b, int depth) {
  typename Kind::Sum sum[kVector] = {};
  for (int k = 0; k < depth; k += kVector) {
    const auto line = load<typename Kind::Line>(b + k);
#pragma GCC unroll 16
    for (int m = 0; m < kVector; ++m) {
      sum[m] = Kind::multiply_add(sum[m], line, load<typename Kind::Line>(a + m * stride + k));
    }
  }
  return sums_of_lanes(sum);
}

inline float largest_of(Vector x) {
  float largest = x[0];
  for (int i = 1; i < kVector; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

inline float sum_of(Vector x) {
  float sum = 0.0f;
  for (int i = 0; i < kVector; ++i) sum += x[i];
  return sum;
}

// Weights as words of the product with V. Returns the sum of the codes.
template <class Kind>
inline int32_t store_weights(const float* weights, int count, Word* words) {
  int32_t sum = 0;
  if constexpr (Kind::kCodes) {
    auto* codes = reinterpret_cast<typename Kind::Element*>(words);
    for (int j = 0; j < count; ++j) {
      const int32_t code =
          __builtin_bit_cast(int32_t, weights[j] + kRoundingBias) - kRoundingBiasBits;
      codes[j] = static_cast<typename Kind::Element>(code);
      sum += static_cast<int32_t>(static_cast<uint32_t>(code) & 0xFF);
    }
  } else {
    store_unquantized(weights, count, Kind::kOperand, words);
  }
  return sum;
}

// Logits of all keys of a run, with -inf past its end. Returns the largest.
template <class Kind>
inline float mean_row_logits(const KeyRun& run, int width, int key_words, const MeanRow& row,
                             float* logits) {
  const float unit = row.factor * run.key_scale, origin = Kind::kCodes ? kRoundingBias : 0.0f;
  VectorInt lane;
  for (int i = 0; i < kVector; ++i) lane[i] = i;
  Vector largest = splat(kMinusInfinity);
  for (int j = 0; j < width; j += kVector) {
    auto sum = row_products<Kind>(run.key + j * key_words, key_words, row.query, key_words);
    if constexpr (Kind::kCodes) sum += load<VectorInt>(run.key_start + j);
    Vector logit = reinterpret_cast<Vector>(sum);
    VectorInt exists = lane + j < run.count;
    if (run.log2_count != nullptr) {
      const Vector log2_count = load(run.log2_count + j);
      const Vector scale =
          run.key_scales == nullptr ? splat(1.0f) : load(run.key_scales + j);
      logit = (logit - origin) * (unit * scale) + log2_count;
      exists &= log2_count != kMinusInfinity;
    }
    logit = exists ? logit : splat(kMinusInfinity);
    store(logits + j, logit);
    largest = max_ignoring_nan(largest, logit);
  }
  return largest_of(largest);
}

// As attend_run of a strip does it, for the row.
template <class ScoreKind, class WeightKind, int kLevels>
inline void attend_mean_row(const KeyRun& run, int key_words, int head_dim, MeanRow& row) {
  const int width = run.value_words * WeightKind::kPerWord;
  alignas(64) float logits[kLargestBlock];
  alignas(64) Word weights[kLargestBlock];
  const float largest = mean_row_logits<ScoreKind>(run, width, key_words, row, logits);
  const bool in_base_2 = run.log2_count != nullptr;
  float factor = in_base_2 ? 1.0f : row.factor * run.key_scale;
  if (ScoreKind::kCodes && factor < kSmallestFactor) factor = kSmallestFactor;
  const float origin = ScoreKind::kCodes && !in_base_2 ? kRoundingBias : 0.0f;
  const float reference = largest == kMinusInfinity ? 0.0f : largest;

  // Weights in units of one code, and their sum before they are rounded.
  const bool shared = WeightKind::kCodes && run.value_share != nullptr;
  Vector exact{};
  for (int j = 0; j < width; j += kVector) {
    const Vector p = exp2_not_positive(load(logits + j) - reference, splat(factor));
    exact = exact + p;
    store(logits + j, shared ? p * (load(run.value_share + j) * kStepLevels)
                             : p * static_cast<float>(kLevels));
  }
  const int32_t code_sum = store_weights<WeightKind>(logits, width, weights);
  float total = sum_of(exact) * static_cast<float>(kLevels);
  // NaN where a logit is; see Weigh::total.
  if (WeightKind::kCodes && !shared) total = static_cast<float>(code_sum) + (total - total);

  const float run_maximum =
      (largest - origin) * factor + (run.row_logits == nullptr ? 0.0f : *run.row_logits);
  const float after = run_maximum > row.maximum ? run_maximum : row.maximum;
  const float after_finite = after == kMinusInfinity ? 0.0f : after;
  const float keep = exp2_not_positive(splat(row.maximum - after_finite))[0];
  const float weight = exp2_not_positive(splat(run_maximum - after_finite))[0];
  row.sum = row.sum * keep + total * weight;
  row.maximum = after;
  for (int d = 0; d < head_dim; d += kVector) {
    const auto sum = row_products<WeightKind>(run.value + d * run.value_words, run.value_words,
                                              weights, run.value_words);
    Vector own;
    if constexpr (WeightKind::kCodes) {
      own = __builtin_convertvector(sum - WeightKind::kValueOffset * code_sum, Vector) *
            (weight * load_unaligned(run.value_scale + d));
    } else {
      own = sum * weight;
    }
    store(row.output + d, load(row.output + d) * keep + own);
  }
}

}  // namespace paro::cpu::PARO_ISA
