// Softmax of one strip over one run of keys: logits -> weights as words of the product P V.
#pragma once

#include "matrix_product.h"

namespace paro::cpu::PARO_ISA {

// A run of keys that are attended together. They share one scale, unless the run is a step of fine
// summaries or a block of smoothed keys, which have scales for each key.
struct KeyRun {
  const Word* key;           // [count][key_words]
  const int32_t* key_start;  // [count]; codes only
  const Word* value;         // [D][value_words]
  const float* value_scale;  // [D]; codes only
  const float* log2_count;   // [count] log2 of a summary's token count, -inf: off; or null
  const float* key_scales;   // [count] factors on key_scale; or null
  const float* value_share;  // [count] value scales relative to value_scale; a step only, else null
  float key_scale;
  int value_words;  // words of a channel
  int count;
  const Word* next_key;    // of the run after this one; or null
  const Word* next_value;  // likewise

  // Smoothed keys only, else null. Both are in base 2.
  const float* key_logits = nullptr;  // [count] of the mean of the rows, which are residuals then
  const float* row_logits = nullptr;  // [kSmoothedStep * R] for each strip, R of each: of the rows
                                      // with the block's mean; one of a mean row
  const KeyRun* of_mean_row = nullptr;  // the same keys as a mean row meets them; null: this run

  // Keys at or past `count` take part with logits of -inf and values of 0.
  int padded_count() const { return (count + kTailRows - 1) / kTailRows * kTailRows; }
};

// What the softmax keeps of a strip from run to run, and passes to the product with V.
struct StripRows {
  float* maximum;  // [R] of all base-2 logits so far
  float* sum;      // [R] of all weights so far, relative to `maximum`
};

// What belongs to one run: the largest raw logit of each row, and how the run is added to the
// output so far.
struct RunRows {
  Vector largest[kStripVectors];
  Vector keep[kStripVectors];    // factor of the output so far
  Vector weight[kStripVectors];  // factor of this run's own output
  VectorInt code_sum[kStripVectors];
};

// The least factor of logits that are codes. With 0, for rows or keys of zeros, the logit of a key
// that does not exist would become -inf * 0 = NaN. This one takes differences of codes to 0 as well.
// Keys with scales of their own have factors for each key, and logits in base 2.
constexpr float kSmallestFactor = 0x1p-100f;

// Turns the raw logits of a run into base-2 logits: (raw - origin) * factor + row.
struct LogitUnit {
  Vector factor[kStripVectors];
  Vector row[kStripVectors];
  float origin;

  // What holds for logits that are in base 2 but for what belongs to the row.
  void set_base_2() {
    for (int v = 0; v < kStripVectors; ++v) factor[v] = splat(1.0f);
    origin = 0.0f;
  }
};

// Turns raw logits into base-2 logits in place, and adds log2_count for summary tokens. Afterwards
// nothing is left of the run's scales.
inline void add_log2_count(const KeyRun& run, float* logits, LogitUnit& unit, RunRows& rows) {
#pragma GCC unroll 2
  for (int v = 0; v < kStripVectors; ++v) {
    Vector largest = splat(kMinusInfinity);
    for (int j = 0; j < run.count; ++j) {
      float* at = logits + j * kStripRows + v * kVector;
      // A dropped summary gets -inf even if it is NaN.
      const bool off = run.log2_count[j] == kMinusInfinity;
      const float scale = run.key_scales == nullptr ? 1.0f : run.key_scales[j];
      const Vector x = (load(at) - unit.origin) * (unit.factor[v] * scale) + run.log2_count[j];
      const Vector logit = off ? splat(kMinusInfinity) : x;
      store(at, logit);
      largest = max_ignoring_nan(largest, logit);
    }
    rows.largest[v] = largest;
  }
  unit.set_base_2();
}

// How a run's weights become words. kShared: as codes of kStepLevels, after a factor for each key,
// which holds the scale of its values. The sum then takes the weights themselves, because the codes
// of keys with small values would lose their mass.
enum class Weights { kOwn, kShared };
constexpr float kStepLevels = 255.0f;

// The weights of one vector of rows. kLevels is the largest code of a weight, or 1 for unquantized
// weights. kNan says whether a logit may be NaN; the `probe` of a row with a NaN logit is then NaN.
template <class Kind, int kLevels, bool kNan, Weights kWeights>
struct Weigh {
  static constexpr bool kShared = kWeights == Weights::kShared;
  static constexpr bool kExact = !Kind::kCodes || kShared;  // the sum takes unrounded weights
  const float* share;
  Vector reference, factor, lowest;
  Vector sum{}, probe{};
  VectorInt code_sum{};

  Vector one(Vector raw) {
    const Vector below = raw - reference;
    if constexpr (kExact) {
      const Vector p = exp2_not_positive(below, factor);
      sum = sum + p;
      return p;
    } else {
      const Vector bounded = lowest > below ? lowest : below;
      if constexpr (kNan) probe = probe + bounded;
      const Exp2 power = exp2_of_product<kLevels>(bounded, factor);
      return reinterpret_cast<Vector>(reinterpret_cast<VectorUnsigned>(power.mantissa) +
                                      power.exponent);
    }
  }

  // The word of keys [key, key + kPerWord); `raw` are the logits of the first.
  auto word(const float* raw, [[maybe_unused]] int key) {
    Vector p[Kind::kPerWord];
#pragma GCC unroll 4
    for (int i = 0; i < Kind::kPerWord; ++i) {
      p[i] = one(load(raw + i * kStripRows));
      if constexpr (kShared) p[i] = p[i] * (share[key + i] * kStepLevels);
    }
    const auto packed = Kind::pack(p);
    if constexpr (Kind::kCodes) code_sum = Kind::add_up(code_sum, packed);
    return packed;
  }

  // The sum of the weights. It is NaN for a row with a NaN logit, and the output of that row is
  // divided by it.
  Vector total() const {
    if constexpr (kExact) return sum * static_cast<float>(kLevels);
    return __builtin_convertvector(code_sum, Vector) + (probe - probe);
  }
};

// Turns logits into weights, and updates the strip's rows.
template <class Kind, int kLevels, bool kNan, Weights kWeights = Weights::kOwn>
inline void softmax_run(const LogitUnit& unit, const KeyRun& run, const float* logits,
                        Word* weights, const StripRows& strip, RunRows& rows) {
  const Vector zero{};
  const int keys = run.padded_count();
#pragma GCC unroll 2
  for (int v = 0; v < kStripVectors; ++v) {
    const int lane = v * kVector;
    const Vector largest = rows.largest[v], factor = unit.factor[v];
    // A row may have met only -inf. Subtracting -inf would give NaN where the weight is 0.
    const Vector reference = largest == kMinusInfinity ? zero : largest;
    Weigh<Kind, kLevels, kNan, kWeights> weigh{run.value_share, reference, factor,
                                               -126.0f / factor};
    for (int j = 0; j < keys; j += Kind::kPerWord) {
      store(weights + j / Kind::kPerWord * kStripRows + lane,
            weigh.word(logits + j * kStripRows + lane, j));
    }
    const Vector run_maximum = (largest - unit.origin) * factor + unit.row[v];
    const Vector before = load(strip.maximum + lane);
    const Vector after = max_ignoring_nan(before, run_maximum);
    const Vector after_finite = after == kMinusInfinity ? zero : after;
    const Vector total = weigh.total();
    rows.keep[v] = exp2_not_positive(before - after_finite);
    rows.weight[v] = exp2_not_positive(run_maximum - after_finite);
    rows.code_sum[v] = weigh.code_sum;
    store(strip.sum + lane, load(strip.sum + lane) * rows.keep[v] + total * rows.weight[v]);
    store(strip.maximum + lane, after);
  }
}

}  // namespace paro::cpu::PARO_ISA
