// Stage 2: computes one query block from its exact key blocks, then from the summaries of its fine
// blocks, then from the summary tokens of the others. Query rows lie next to each other in vectors,
// so that maxima and sums over keys need no operation across a vector.
#pragma once

#include "attend_run.h"
#include "fine.h"
#include "query_rows.h"
#include "smoothed.h"

namespace paro::cpu::PARO_ISA {

// One query block: its rows, and where they are.
struct QueryBlock {
  Tile tile;
  int head;
  int first;  // position of its first row

  int64_t element(int row) const { return query_element(tile.job, head, first + row); }
};

// The mean of a block's rows, as smoothing subtracts it: [D].
inline void smoothing_mean(const QueryBlock& block, const QueryWriter& writer, float* mean) {
  const HeadJob& job = block.tile.job;
  const paro_attention& call = *job.call;
  mean_of_queries(job, block.head, block.first, call.block_q, block.tile.scratch, mean);
  writer.precondition(mean);
  round_in_range(mean, call.head_dim, call.dtype);
}

// Loads the rows of one strip, preconditions and quantizes them, and stores words [key_words][R];
// likewise the rows less their mean where they are smoothed.
inline void load_query(const QueryBlock& block, const QueryWriter& writer, int strip) {
  const Tile& tile = block.tile;
  const HeadJob& job = tile.job;
  const paro_attention& call = *job.call;
  const int head_dim = call.head_dim;
  const SmoothingScratch& smoothing = tile.scratch.smoothing;
  alignas(64) Word words[kStripRows * kLargestHeadDim], residuals[kStripRows * kLargestHeadDim];
  for (int r = 0; r < kStripRows; ++r) {
    const int row = strip * kStripRows + r;
    if (row + kRowsAhead < tile.rows) {
      prefetch_row(call.query, block.element(row + kRowsAhead), head_dim, call.dtype);
    }
    alignas(64) float x[kLargestHeadDim];
    if (row < tile.rows) {
      load_row(call.query, block.element(row), head_dim, call.dtype, x);
    } else {
      for (int d = 0; d < head_dim; d += kVector) store(x + d, Vector{});
    }
    tile.scratch.row_factor[row] = writer.write(x, words + r * job.key_words);
    if (tile.block_mean == nullptr) continue;
    keep_rounded(x);
    for (int d = 0; d < head_dim; d += kVector) {
      store(x + d, load(x + d) - load(tile.block_mean + d));
    }
    smoothing.factor[row] = writer.write_codes(x, call.qk_bits, residuals + r * job.key_words);
  }
  if (tile.block_mean != nullptr) {
    transpose(residuals, job.key_words, kStripRows, job.key_words,
              smoothing.residual + strip * job.key_words * kStripRows, kStripRows);
  }
  transpose(words, job.key_words, kStripRows, job.key_words,
            tile.scratch.query + strip * job.key_words * kStripRows, kStripRows);
}

// What a query block's masks say of the key blocks. Of those without tokens they say nothing.
struct MaskRow {
  const int32_t* exact;  // null: all blocks are exact
  const int32_t* fine;   // null: none is fine

  bool is_exact(const HeadJob& job, int block) const {
    return (exact == nullptr || bit(exact, block)) && job.tokens_in(block) > 0;
  }
  bool is_fine(const HeadJob& job, int block) const {
    return fine != nullptr && bit(fine, block) && job.tokens_in(block) > 0 &&
           !is_exact(job, block);
  }

 private:
  static bool bit(const int32_t* row, int block) {
    return (static_cast<uint32_t>(row[block / 32]) >> (block % 32) & 1) != 0;
  }
};

inline MaskRow mask_row_of(const HeadJob& job, int head, int query_block) {
  const paro_attention& call = *job.call;
  const int words = (job.key_blocks + 31) / 32;
  const int64_t row = (int64_t{job.mask_bin} * call.heads + head) * job.query_blocks + query_block;
  const int64_t own = int64_t{job.in_group(head)} * job.query_blocks + query_block;
  return {job.dynamic_blocks(head) > 0 ? job.routed_mask + own * words
                                       : call.block_mask + row * words,
          call.fine_summaries ? call.fine_mask + row * words : nullptr};
}

// The first exact block at or after `block`, or NK.
inline int next_exact(const HeadJob& job, const MaskRow& mask, int block) {
  while (block < job.key_blocks && !mask.is_exact(job, block)) ++block;
  return block;
}

inline void attend_smoothed(const Tile& tile, const MaskRow& mask, AttendRun attend) {
  const HeadJob& job = tile.job;
  SmoothedStep step;
  for (int block = next_exact(job, mask, 0); block < job.key_blocks;
       block = next_exact(job, mask, block + 1)) {
    step.block[step.count++] = block;
    if (step.full()) attend_step(tile, step, attend);
  }
  if (step.count > 0) attend_step(tile, step, attend);
}

inline void attend_exact(const Tile& tile, const MaskRow& mask, AttendRun attend) {
  const HeadJob& job = tile.job;
  if (job.call->smoothing) return attend_smoothed(tile, mask, attend);
  for (int block = next_exact(job, mask, 0); block < job.key_blocks;) {
    KeyRun run = run_of(job, job.tokens, block, job.tokens_in(block));
    block = next_exact(job, mask, block + 1);
    if (block < job.key_blocks) {
      const KeyRun next = run_of(job, job.tokens, block, job.tokens_in(block));
      run.next_key = next.key;
      run.next_value = next.value;
    }
    attend(tile, run);
  }
}

inline void attend_fine(const Tile& tile, const MaskRow& mask, AttendRun attend) {
  const HeadJob& job = tile.job;
  int32_t blocks[kFineStepGroups];
  int groups = 0;
  const auto attend_step = [&] {
    if (groups == 0) return;
    FineStep step;
    attend(tile, gather_step(job, blocks, groups, tile.scratch, step));
    groups = 0;
  };
  for (int block = 0; block < job.key_blocks; ++block) {
    if (!mask.is_fine(job, block)) continue;
    blocks[groups++] = block;
    if (groups == kFineStepGroups) attend_step();
  }
  attend_step();
}

// Attends the summary tokens of the blocks that are neither exact nor fine. Skips a group of
// summary tokens if none of them is attended.
inline void attend_summaries(const Tile& tile, const MaskRow& mask, AttendRun attend) {
  const HeadJob& job = tile.job;
  const int width = job.call->block_k;
  const float full = __builtin_log2f(static_cast<float>(width));
  for (int first = 0; first < job.key_blocks; first += width) {
    const int rest = job.key_blocks - first, count = rest < width ? rest : width;
    alignas(64) float log2_count[kLargestBlock];
    bool any = false;
    for (int j = 0; j < count; ++j) {
      const int block = first + j, tokens = job.tokens_in(block);
      const bool attended =
          tokens > 0 && !mask.is_exact(job, block) && !mask.is_fine(job, block);
      any |= attended;
      log2_count[j] = !attended         ? kMinusInfinity
                      : tokens == width ? full
                                        : __builtin_log2f(static_cast<float>(tokens));
    }
    if (!any) continue;
    for (int j = count; j < width; ++j) log2_count[j] = kMinusInfinity;
    KeyRun run = run_of(job, job.summaries, first / width, count);
    run.log2_count = log2_count;
    attend(tile, run);
  }
}

// Writes the rows of one strip, plus `correction` [D] unless it is null.
inline void write_output(const QueryBlock& block, int strip, const float* correction) {
  const Tile& tile = block.tile;
  const paro_attention& call = *tile.job.call;
  const int head_dim = call.head_dim;
  const OutputScale scale(tile.job);
  alignas(64) float rows[kStripRows * kLargestHeadDim];
  const int first = strip * kStripRows;
  const int count = first + kStripRows < tile.rows ? kStripRows : tile.rows - first;
  for (int r = 0; r < count; ++r) {
    prefetch_row(call.output, block.element(first + r), head_dim, call.dtype);
  }
  transpose(tile.scratch.output + strip * kStripRows * head_dim, kStripRows, head_dim, kStripRows,
            rows, head_dim);
  for (int r = 0; r < count; ++r) {
    float* x = rows + r * head_dim;
    scale.apply(x, head_dim, tile.scratch.row_sum[first + r]);
    if (correction != nullptr) {
      for (int d = 0; d < head_dim; ++d) x[d] += correction[d];
    }
    store_row(call.output, block.element(first + r), head_dim, call.dtype, x);
  }
}

// Writes zeros to rows [begin, end) of a query block.
inline void write_zeros(const QueryBlock& block, int begin, int end) {
  const paro_attention& call = *block.tile.job.call;
  alignas(64) const float zeros[kLargestHeadDim] = {};
  for (int row = begin; row < end; ++row) {
    store_row(call.output, block.element(row), call.head_dim, call.dtype, zeros);
  }
}

inline void attend_tile(const HeadJob& job, int32_t head, int32_t query_block, Scratch& scratch) {
  const paro_attention& call = *job.call;
  const int first = query_block * call.block_q;
  QueryBlock block{{job, scratch, job.queries_in(query_block), nullptr, nullptr}, head, first};
  Tile& tile = block.tile;
  const int in_sequence = call.tokens - first < call.block_q ? call.tokens - first : call.block_q;
  write_zeros(block, tile.rows, in_sequence);  // padding
  if (tile.rows == 0) return;
  const MaskRow mask = mask_row_of(job, head, query_block);
  const bool any_exact = next_exact(job, mask, 0) < job.key_blocks;
  if (!call.pool_dropped && !any_exact) return write_zeros(block, 0, tile.rows);

  const QueryWriter writer(job);
  alignas(64) float block_mean[kLargestHeadDim];
  if (call.smoothing) {
    smoothing_mean(block, writer, block_mean);
    tile.block_mean = block_mean;
  }
  for (int strip = 0; strip < tile.strips(); ++strip) load_query(block, writer, strip);
  clear(tile);
  const AttendRun attend = find_attend_run(job);
  const auto attend_all = [&] {
    attend_exact(tile, mask, attend);
    if (mask.fine != nullptr) attend_fine(tile, mask, attend);
    if (call.pool_dropped) attend_summaries(tile, mask, attend);
  };
  if (!job.is_corrected(head)) {
    attend_all();
    for (int strip = 0; strip < tile.strips(); ++strip) write_output(block, strip, nullptr);
    return;
  }
  const int64_t index = int64_t{job.in_group(head)} * job.mean_queries + first / kCorrectionRows;
  MeanRow mean{job.means.query + index * job.key_words, job.means.factor[index]};
  tile.mean = &mean;
  attend_all();
  OutputScale(job).apply(mean.output, call.head_dim, mean.sum);
  const float* dense = job.means.dense + index * call.head_dim;
  alignas(64) float correction[kLargestHeadDim];
  for (int d = 0; d < call.head_dim; ++d) correction[d] = dense[d] - mean.output[d];
  for (int strip = 0; strip < tile.strips(); ++strip) write_output(block, strip, correction);
}

}  // namespace paro::cpu::PARO_ISA
