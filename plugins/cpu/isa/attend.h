// Stage 2: computes one query block from the key blocks on its mask row, then from the summary
// tokens of the others. Query rows lie next to each other in vectors, so that maxima and sums over
// keys need no operation across a vector.
#pragma once

#include "../head_job.h"
#include "quantize.h"
#include "softmax.h"

namespace paro::cpu::PARO_ISA {

constexpr float kLog2E = 1.4426950408889634f;
constexpr int kLargestHeadDim = 128, kLargestBlock = 128;

// One query block while it is computed: its position and its strips.
struct Tile {
  const HeadJob& job;
  Scratch& scratch;
  int head;
  int first;  // position of its first row
  int rows;   // number of its rows that exist

  int strips() const { return (rows + kStripRows - 1) / kStripRows; }
  int64_t element(int row) const {
    const int64_t token = job.order[first + row];
    return ((job.sample * int64_t{job.call->tokens} + token) * job.call->heads + head) *
           job.call->head_dim;
  }
};

// Loads the rows of one strip, preconditions and quantizes them, and stores words [key_words][R].
inline void load_query(const Tile& tile, int strip) {
  const HeadJob& job = tile.job;
  const paro_attention& call = *job.call;
  const int head_dim = call.head_dim;
  const float* equalizer =
      call.channel_affine + (PARO_EQUALIZER * call.kv_heads + job.kv_head) * head_dim;
  const float scale =
      call.scale != 0.0f ? call.scale : 1.0f / __builtin_sqrtf(static_cast<float>(head_dim));
  alignas(64) Word words[kStripRows * kLargestHeadDim];
  for (int r = 0; r < kStripRows; ++r) {
    const int row = strip * kStripRows + r;
    if (row + kRowsAhead < tile.rows) {
      prefetch_row(call.query, tile.element(row + kRowsAhead), head_dim, call.dtype);
    }
    alignas(64) float x[kLargestHeadDim];
    if (row < tile.rows) {
      load_row(call.query, tile.element(row), head_dim, call.dtype, x);
    } else {
      for (int d = 0; d < head_dim; d += kVector) store(x + d, Vector{});
    }
    Word* to = words + r * job.key_words;
    float row_scale = 1.0f;
    if (job.key_operand == Codes::kOperand) {
      for (int d = 0; d < head_dim; d += kVector) {
        store(x + d, load(x + d) * load_unaligned(equalizer + d));
      }
      const Scale s = scale_of(magnitude_of(x, head_dim), call.qk_bits);
      store_codes(x, head_dim, s, Codes::kQueryOffset, reinterpret_cast<Codes::Element*>(to));
      row_scale = s.scale;
    } else {
      store_unquantized(x, head_dim, job.key_operand, to);
    }
    tile.scratch.row_factor[row] = row_scale * (scale * kLog2E);
  }
  transpose(words, job.key_words, kStripRows, job.key_words,
            tile.scratch.query + strip * job.key_words * kStripRows, kStripRows);
}

// Raw logits of a strip. For codes, these are the bits of the float kRoundingBias + q . k.
template <class Kind>
inline void multiply_scores(const Product& product_of, const KeyRun& run, Ahead& ahead,
                            float* logits, RunRows& rows) {
  for (int v = 0; v < kStripVectors; ++v) rows.largest[v] = splat(kMinusInfinity);
  const auto start = [&](int j, int) {
    if constexpr (Kind::kCodes)
      return splat(run.key_start[j]);
    else
      return Vector{};
  };
  const int count = run.count;
  product<Kind>(product_of, run.padded_count(), ahead, start,
                [&rows, logits, count](int j, int v, typename Kind::Sum sum) {
                  const Vector product_bits = reinterpret_cast<Vector>(sum);
                  const Vector logit = j < count ? product_bits : splat(kMinusInfinity);
                  store(logits + j * kStripRows + v * kVector, logit);
                  rows.largest[v] = max_ignoring_nan(rows.largest[v], logit);
                });
}

// output [D][R] = output * keep + (weights * values) * weight.
template <class Kind>
inline void multiply_values(const Product& product_of, const KeyRun& run, int head_dim,
                            Ahead& ahead, const RunRows& rows, float* output) {
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
    RunRows rows;
    multiply_scores<ScoreKind>(
        {run.key, scratch.query + lane * job.key_words, job.key_words, job.key_words}, run,
        ahead_key, scratch.logits, rows);
    LogitUnit unit;
    unit.origin = ScoreKind::kCodes ? kRoundingBias : 0.0f;
    for (int v = 0; v < kStripVectors; ++v) {
      unit.factor[v] = load(scratch.row_factor + lane + v * kVector) * run.key_scale;
    }
    const StripRows strip_rows{scratch.row_maximum + lane, scratch.row_sum + lane};
    if (run.log2_count == nullptr) {
      softmax_run<WeightKind, kLevels, !ScoreKind::kCodes>(unit, run.padded_count(), scratch.logits,
                                                           scratch.weights, strip_rows, rows);
    } else {
      add_log2_count(run, scratch.logits, unit, rows);
      softmax_run<WeightKind, kLevels, true>(unit, run.padded_count(), scratch.logits,
                                             scratch.weights, strip_rows, rows);
    }
    multiply_values<WeightKind>({run.value, scratch.weights, job.value_words,
                                 (run.count + WeightKind::kPerWord - 1) / WeightKind::kPerWord},
                                run, head_dim, ahead_value, rows, scratch.output + lane * head_dim);
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

// Whether the mask row lists a key block and the block holds tokens.
inline bool is_listed(const HeadJob& job, const int32_t* mask_row, int block) {
  return (static_cast<uint32_t>(mask_row[block / 32]) >> (block % 32) & 1) != 0 &&
         job.tokens_in(block) > 0;
}

inline KeyRun run_of(const HeadJob& job, const KeyBlocks& blocks, int64_t index, int count) {
  const int64_t keys = index * job.call->block_k, channels = index * job.call->head_dim;
  return {blocks.key + keys * job.key_words,
          blocks.key_start + keys,
          blocks.value + channels * job.value_words,
          blocks.value_scale + channels,
          nullptr,
          blocks.key_scale[index],
          count,
          nullptr,
          nullptr};
}

// The first listed block at or after `block`, or NK.
inline int next_listed(const HeadJob& job, const int32_t* mask_row, int block) {
  while (block < job.key_blocks && !is_listed(job, mask_row, block)) ++block;
  return block;
}

inline void attend_listed(const Tile& tile, const int32_t* mask_row, AttendRun attend) {
  const HeadJob& job = tile.job;
  for (int block = next_listed(job, mask_row, 0); block < job.key_blocks;) {
    KeyRun run = run_of(job, job.tokens, block, job.tokens_in(block));
    block = next_listed(job, mask_row, block + 1);
    if (block < job.key_blocks) {
      const KeyRun next = run_of(job, job.tokens, block, job.tokens_in(block));
      run.next_key = next.key;
      run.next_value = next.value;
    }
    attend(tile, run);
  }
}

// Attends the summary tokens of the blocks that the mask row drops. Skips a group of summary tokens
// if none of them is attended.
inline void attend_summaries(const Tile& tile, const int32_t* mask_row, AttendRun attend) {
  const HeadJob& job = tile.job;
  const int width = job.call->block_k;
  const float full = __builtin_log2f(static_cast<float>(width));
  for (int first = 0; first < job.key_blocks; first += width) {
    const int rest = job.key_blocks - first, count = rest < width ? rest : width;
    float log2_count[kLargestBlock];
    bool any_off = false;
    for (int j = 0; j < count; ++j) {
      const int tokens = job.tokens_in(first + j);
      const bool off = tokens > 0 && !is_listed(job, mask_row, first + j);
      any_off |= off;
      log2_count[j] = !off              ? kMinusInfinity
                      : tokens == width ? full
                                        : __builtin_log2f(static_cast<float>(tokens));
    }
    if (!any_off) continue;
    KeyRun run = run_of(job, job.summaries, first / width, count);
    run.log2_count = log2_count;
    attend(tile, run);
  }
}

inline void write_output(const Tile& tile, int strip) {
  const HeadJob& job = tile.job;
  const paro_attention& call = *job.call;
  const int head_dim = call.head_dim;
  const float* shift =
      call.channel_affine + (PARO_VALUE_MEAN * call.kv_heads + job.kv_head) * head_dim;
  const float* factor = shift + call.kv_heads * head_dim;
  alignas(64) float rows[kStripRows * kLargestHeadDim];
  const int first = strip * kStripRows;
  const int count = first + kStripRows < tile.rows ? kStripRows : tile.rows - first;
  for (int r = 0; r < count; ++r) {
    prefetch_row(call.output, tile.element(first + r), head_dim, call.dtype);
  }
  transpose(tile.scratch.output + strip * kStripRows * head_dim, kStripRows, head_dim, kStripRows,
            rows, head_dim);
  for (int r = 0; r < count; ++r) {
    const float sum = tile.scratch.row_sum[first + r], inverse = 1.0f / sum;
    float* x = rows + r * head_dim;
    if (sum == 0.0f) {
      for (int d = 0; d < head_dim; ++d) x[d] = 0.0f;
    } else if (job.value_operand == Codes::kOperand) {
      for (int d = 0; d < head_dim; ++d) x[d] = x[d] * inverse * factor[d] + shift[d];
    } else {
      for (int d = 0; d < head_dim; ++d) x[d] *= inverse;
    }
    store_row(call.output, tile.element(first + r), head_dim, call.dtype, x);
  }
}

// Writes zeros to rows [begin, end) of a tile.
inline void write_zeros(const Tile& tile, int begin, int end) {
  const paro_attention& call = *tile.job.call;
  alignas(64) const float zeros[kLargestHeadDim] = {};
  for (int row = begin; row < end; ++row) {
    store_row(call.output, tile.element(row), call.head_dim, call.dtype, zeros);
  }
}

inline void attend_tile(const HeadJob& job, int32_t head, int32_t query_block, Scratch& scratch) {
  const paro_attention& call = *job.call;
  const int first = query_block * call.block_q;
  const Tile tile{job, scratch, head, first, job.queries_in(query_block)};
  const int in_sequence = call.tokens - first < call.block_q ? call.tokens - first : call.block_q;
  write_zeros(tile, tile.rows, in_sequence);  // padding
  if (tile.rows == 0) return;
  const int words = (job.key_blocks + 31) / 32;
  const int64_t mask_index =
      (int64_t{job.mask_bin} * call.heads + head) * job.query_blocks + query_block;
  const int32_t* mask_row = call.block_mask + mask_index * words;
  const bool lists_any = next_listed(job, mask_row, 0) < job.key_blocks;
  if (!call.pool_dropped && !lists_any) return write_zeros(tile, 0, tile.rows);

  for (int strip = 0; strip < tile.strips(); ++strip) load_query(tile, strip);
  const int rows = tile.strips() * kStripRows;
  for (int i = 0; i < rows * call.head_dim; ++i) scratch.output[i] = 0.0f;
  for (int r = 0; r < rows; ++r) {
    scratch.row_maximum[r] = kMinusInfinity;
    scratch.row_sum[r] = 0.0f;
  }
  const AttendRun attend = find_attend_run(job);
  attend_listed(tile, mask_row, attend);
  if (call.pool_dropped) attend_summaries(tile, mask_row, attend);
  for (int strip = 0; strip < tile.strips(); ++strip) write_output(tile, strip);
}

}  // namespace paro::cpu::PARO_ISA
