// One run of keys, attended by the rows of a tile: S^T = K Q^T, softmax, O^T += V^T P^T.
#pragma once

#include "../head_job.h"
#include "mean_row.h"
#include "softmax.h"

namespace paro::cpu::PARO_ISA {

// Query rows that attend the same keys, cut into strips.
struct Tile {
  const HeadJob& job;
  Scratch& scratch;
  int rows;                 // number of its rows that exist
  MeanRow* mean;            // a row that attends with them; or null
  const float* block_mean;  // [D] that smoothed rows have lost; or null

  int strips() const { return (rows + kStripRows - 1) / kStripRows; }
};

// Before the first run.
inline void clear(const Tile& tile) {
  const int rows = tile.strips() * kStripRows;
  for (int i = 0; i < rows * tile.job.call->head_dim; ++i) tile.scratch.output[i] = 0.0f;
  for (int r = 0; r < rows; ++r) {
    tile.scratch.row_maximum[r] = kMinusInfinity;
    tile.scratch.row_sum[r] = 0.0f;
  }
}

// Logits of a strip. `logit_of` receives a key, a vector of the strip and the raw logits, which for
// codes are the bits of the float kRoundingBias + q . k.
template <class Kind, class LogitOf>
__attribute__((always_inline)) inline void multiply_scores(const Product& product_of,
                                                           const KeyRun& run, Ahead& ahead,
                                                           float* logits, RunRows& rows,
                                                           LogitOf logit_of) {
  for (int v = 0; v < kStripVectors; ++v) rows.largest[v] = splat(kMinusInfinity);
  const auto start = [&](int j, int) {
    if constexpr (Kind::kCodes)
      return splat(run.key_start[j]);
    else
      return Vector{};
  };
  const int padded = run.padded_count();
  product<Kind>(product_of, padded, ahead, start,
                [&rows, logits, logit_of](int j, int v, typename Kind::Sum sum) {
                  const Vector logit = logit_of(j, v, reinterpret_cast<Vector>(sum));
                  store(logits + j * kStripRows + v * kVector, logit);
                  rows.largest[v] = max_ignoring_nan(rows.largest[v], logit);
                });
  if (run.count == padded) return;
  // The last block of a sequence: a test in the product would cost every block.
  for (int v = 0; v < kStripVectors; ++v) {
    float* at = logits + v * kVector;
    rows.largest[v] = splat(kMinusInfinity);
    for (int j = 0; j < run.count; ++j) {
      rows.largest[v] = max_ignoring_nan(rows.largest[v], load(at + j * kStripRows));
    }
    for (int j = run.count; j < padded; ++j) store(at + j * kStripRows, splat(kMinusInfinity));
  }
}

// Raw logits of a strip of rows as they are.
template <class Kind>
__attribute__((always_inline)) inline void multiply_rows(const Product& product_of,
                                                         const KeyRun& run, Ahead& ahead,
                                                         float* logits, RunRows& rows) {
  multiply_scores<Kind>(product_of, run, ahead, logits, rows,
                        [](int, int, Vector raw) { return raw; });
}

// Logits of a strip of residuals with smoothed keys, in base 2 but for what belongs to the row.
template <class Kind>
inline void multiply_residuals(const Product& product_of, const KeyRun& run, Ahead& ahead,
                               float* logits, LogitUnit& unit, RunRows& rows) {
  const float* scales = run.key_scales;
  const float* of_mean = run.key_logits;
  const LogitUnit raw_unit = unit;
  multiply_scores<Kind>(product_of, run, ahead, logits, rows, [=](int j, int v, Vector raw) {
    return (raw - raw_unit.origin) * (raw_unit.factor[v] * scales[j]) + of_mean[j];
  });
  unit.set_base_2();
}

// output [D][R] = output * keep + (weights * values) * weight.
template <class Kind>
__attribute__((always_inline)) inline void multiply_values(const Product& product_of,
                                                           const KeyRun& run, int head_dim,
                                                           Ahead& ahead, const RunRows& rows,
                                                           float* output) {
  const auto start = [&](int, int v) {
    if constexpr (Kind::kCodes)
      return -Kind::kValueOffset * rows.code_sum[v];
    else
      return Vector{};
  };
  product<Kind>(product_of, head_dim, ahead, start, [&](int d, int v, typename Kind::Sum sum) {
    float* at = output + d * kStripRows + v * kVector;
    Vector own;
    if constexpr (Kind::kCodes) {
      own = __builtin_convertvector(sum, Vector) * (rows.weight[v] * run.value_scale[d]);
    } else {
      own = sum * rows.weight[v];
    }
    store(at, load(at) * rows.keep[v] + own);
  });
}

// How a call's operands are multiplied: both products and the softmax between them. Chosen once for
// each tile.
template <class ScoreKind, class WeightKind, int kLevels>
inline void attend_run(const Tile& tile, const KeyRun& run) {
  const HeadJob& job = tile.job;
  const Scratch& scratch = tile.scratch;
  const int head_dim = job.call->head_dim;
  Ahead ahead_key(run.next_key, job.call->block_k * job.key_words,
                  tile.strips() * pieces_of_product(run.padded_count()));
  Ahead ahead_value(run.next_value, head_dim * job.value_words,
                    tile.strips() * pieces_of_product(head_dim));
  for (int strip = 0; strip < tile.strips(); ++strip) {
    const int lane = strip * kStripRows;
    const bool smoothed = ScoreKind::kCodes && run.key_logits != nullptr;
    LogitUnit unit;
    unit.origin = ScoreKind::kCodes ? kRoundingBias : 0.0f;
    for (int v = 0; v < kStripVectors; ++v) {
      const float* factor = smoothed ? scratch.smoothing.factor : scratch.row_factor;
      unit.factor[v] = load(factor + lane + v * kVector) * run.key_scale;
      if (ScoreKind::kCodes && run.key_scales == nullptr) {
        const Vector smallest = splat(kSmallestFactor);
        unit.factor[v] = unit.factor[v] < smallest ? smallest : unit.factor[v];
      }
      unit.row[v] = run.row_logits == nullptr
                        ? Vector{}
                        : load(run.row_logits + lane * kSmoothedStep + v * kVector);
    }
    RunRows rows;
    const Word* query = smoothed ? scratch.smoothing.residual : scratch.query;
    const Product product_of{run.key, query + lane * job.key_words, job.key_words, job.key_words};
    if (!smoothed) {
      multiply_rows<ScoreKind>(product_of, run, ahead_key, scratch.logits, rows);
    } else if constexpr (ScoreKind::kCodes) {
      multiply_residuals<ScoreKind>(product_of, run, ahead_key, scratch.logits, unit, rows);
    }
    const StripRows strip_rows{scratch.row_maximum + lane, scratch.row_sum + lane};
    if (run.log2_count == nullptr && !smoothed) {
      softmax_run<WeightKind, kLevels, !ScoreKind::kCodes>(unit, run, scratch.logits,
                                                           scratch.weights, strip_rows, rows);
    } else {
      if (!smoothed) add_log2_count(run, scratch.logits, unit, rows);
      if (WeightKind::kCodes && run.value_share != nullptr) {
        softmax_run<WeightKind, kLevels, true, Weights::kShared>(
            unit, run, scratch.logits, scratch.weights, strip_rows, rows);
      } else {
        softmax_run<WeightKind, kLevels, true>(unit, run, scratch.logits, scratch.weights,
                                               strip_rows, rows);
      }
    }
    multiply_values<WeightKind>({run.value, scratch.weights, run.value_words,
                                 (run.count + WeightKind::kPerWord - 1) / WeightKind::kPerWord},
                                run, head_dim, ahead_value, rows, scratch.output + lane * head_dim);
  }
  if (tile.mean != nullptr) {
    const KeyRun& own = run.of_mean_row == nullptr ? run : *run.of_mean_row;
    attend_mean_row<ScoreKind, WeightKind, kLevels>(own, job.key_words, head_dim, *tile.mean);
  }
}

using AttendRun = void (*)(const Tile&, const KeyRun&);

template <class ScoreKind>
inline AttendRun find_attend_run(const HeadJob& job) {
  if (job.value_operand == Codes::kOperand) {
    return job.call->pv_bits == 8 ? attend_run<ScoreKind, WeightCodes, 255>
                                  : attend_run<ScoreKind, WeightCodes, 15>;
  }
  if constexpr (kMultipliesBfloat16) {
    if (job.value_operand == Operand::kBfloat16) return attend_run<ScoreKind, Bfloat16, 1>;
  }
  return attend_run<ScoreKind, Float32, 1>;
}

inline AttendRun find_attend_run(const HeadJob& job) {
  if (job.key_operand == Codes::kOperand) return find_attend_run<ScoreCodes>(job);
  if constexpr (kMultipliesBfloat16) {
    if (job.key_operand == Operand::kBfloat16) return find_attend_run<Bfloat16>(job);
  }
  return find_attend_run<Float32>(job);
}

inline KeyRun run_of(const HeadJob& job, const KeyBlocks& blocks, int64_t index, int count) {
  const int64_t keys = index * job.call->block_k, channels = index * job.call->head_dim;
  return {.key = blocks.key + keys * job.key_words,
          .key_start = blocks.key_start + keys,
          .value = blocks.value + channels * job.value_words,
          .value_scale = blocks.value_scale + channels,
          .log2_count = nullptr,
          .key_scales = nullptr,
          .value_share = nullptr,
          .key_scale = blocks.key_scale[index],
          .value_words = job.value_words,
          .count = count,
          .next_key = nullptr,
          .next_value = nullptr};
}

}  // namespace paro::cpu::PARO_ISA
