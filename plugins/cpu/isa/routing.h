// Routing, before stage 2: estimates for each query block what error each key block would leave,
// and adds the blocks of the largest errors to the mask. The estimate takes means of runs of tokens
// in place of the tokens. The runs of one strip of query rows lie next to each other in vectors.
#pragma once

#include "matrix_product.h"
#include "query_rows.h"
#include "store_blocks.h"

namespace paro::cpu::PARO_ISA {

// The mean rows of the strip's runs: [D][R], 0 where no row exists.
inline void load_mean_rows(const HeadJob& job, int head, int first, Scratch& scratch) {
  const paro_attention& call = *job.call;
  const int head_dim = call.head_dim;
  static_assert(kRoutingRun + kStripRows <= 64, "scratch.rows holds 64 rows or more");
  float* means = scratch.rows + kRoutingRun * head_dim;
  for (int run = 0; run < kStripRows; ++run) {
    const int start = first + run * kRoutingRun;
    int count = 0;
    for (int r = 0; r < kRoutingRun; ++r) {
      const int position = start + r;
      if (position + kRowsAhead < job.length) {
        prefetch_row(call.query, query_element(job, head, position + kRowsAhead), head_dim,
                     call.dtype);
      }
      float* x = scratch.rows + r * head_dim;
      if (position < job.length) {
        load_row(call.query, query_element(job, head, position), head_dim, call.dtype, x);
        ++count;
      } else {
        for (int d = 0; d < head_dim; d += kVector) store(x + d, Vector{});
      }
    }
    mean_of_rows(scratch.rows, kRoutingRun, head_dim, count, scratch.sums, means + run * head_dim);
  }
  round_to_storage(means, kStripRows * head_dim, call.dtype);
  transpose(means, head_dim, kStripRows, head_dim, scratch.routing.query, kStripRows);
}

// rows [count][D] times the strip: finish(row, v, sum) receives the products.
template <class Finish>
inline void product_of_floats(const float* rows, int stride, const float* strip, int count,
                              int depth, Finish finish) {
  Ahead none(nullptr, 0, 1);
  product<Float32>({reinterpret_cast<const Word*>(rows), reinterpret_cast<const Word*>(strip),
                    stride, depth},
                   count, none, [](int, int) { return Vector{}; }, finish);
}

// 2^x, and something that squares to infinity from 2^127 on. The mean key of a block may round to
// one with more weight than all its runs have.
inline Vector exp2_bounded(Vector x) { return exp2_not_positive(x > 127.0f ? splat(127.0f) : x); }

// Attention of the strip between means: weights [runs][R] that sum to one, the output [D][R], and
// the weight that each block's summary token has.
inline void attend_means(const HeadJob& job, int key_blocks, const RoutingScratch& s) {
  const paro_attention& call = *job.call;
  const int head_dim = call.head_dim, runs = key_blocks * (call.block_k / kRoutingRun);
  const float scale = base_2_scale(call);
  const auto log2_of = [](int rest, int most, float log2_most) {
    return rest >= most ? log2_most
           : rest > 0   ? __builtin_log2f(static_cast<float>(rest))
                        : kMinusInfinity;
  };
  const float log2_run = __builtin_log2f(static_cast<float>(kRoutingRun));
  const float log2_block = __builtin_log2f(static_cast<float>(call.block_k));
  Vector largest[kStripVectors], inverse[kStripVectors];
  for (int v = 0; v < kStripVectors; ++v) largest[v] = splat(kMinusInfinity);
  product_of_floats(job.routing.key, head_dim, s.query, runs, head_dim,
                    [&](int run, int v, Vector sum) {
                      const float log2_count =
                          log2_of(job.length - run * kRoutingRun, kRoutingRun, log2_run);
                      const Vector logit = sum * scale + log2_count;
                      store(s.weight + run * kStripRows + v * kVector, logit);
                      largest[v] = max_ignoring_nan(largest[v], logit);
                    });
  for (int v = 0; v < kStripVectors; ++v) {
    Vector sum{};
    for (int run = 0; run < runs; ++run) {
      float* at = s.weight + run * kStripRows + v * kVector;
      const Vector weight = exp2_not_positive(load(at) - largest[v]);
      store(at, weight);
      sum = sum + weight;
    }
    inverse[v] = 1.0f / sum;
    for (int run = 0; run < runs; ++run) {
      float* at = s.weight + run * kStripRows + v * kVector;
      store(at, load(at) * inverse[v]);
    }
  }
  product_of_floats(job.routing.value_of_channel, job.routing_runs, s.weight, head_dim, runs,
                    [&](int d, int v, Vector sum) {
                      store(s.output + d * kStripRows + v * kVector, sum);
                    });
  const int padded = (key_blocks + kTailRows - 1) / kTailRows * kTailRows;
  if (!call.pool_dropped) {
    for (int i = 0; i < key_blocks * kStripRows; ++i) s.summary[i] = 0.0f;
    return;
  }
  product_of_floats(
      job.routing.block_key, head_dim, s.query, padded, head_dim,
      [&](int block, int v, Vector sum) {
        const float log2_count =
            log2_of(job.length - block * call.block_k, call.block_k, log2_block);
        const Vector weight = exp2_bounded(sum * scale + log2_count - largest[v]) * inverse[v];
        store(s.summary + block * kStripRows + v * kVector, weight);
      });
}

// The error that each key block would leave in each run of the strip: [NK][R]. The sum over
// channels is taken directly. The quadratic form of a block's Gram matrix needs 350 in place of 448
// multiply-adds for 64 channels, but loses the small errors of values that have a large mean.
template <int kRuns>
inline void estimate_errors(const HeadJob& job, int key_blocks, const RoutingScratch& s) {
  const int head_dim = job.call->head_dim;
  for (int block = 0; block < key_blocks; ++block) {
    const float* value = job.routing.value + int64_t{block} * kRuns * head_dim;
    const float* block_value = job.routing.block_value + int64_t{block} * head_dim;
    for (int v = 0; v < kStripVectors; ++v) {
      const int lane = v * kVector;
      Vector weight[kRuns], mass{};
#pragma GCC unroll 8
      for (int r = 0; r < kRuns; ++r) {
        weight[r] = load(s.weight + (block * kRuns + r) * kStripRows + lane);
        mass = mass + weight[r];
      }
      const Vector summary = load(s.summary + block * kStripRows + lane), rest = mass - summary;
      Vector error[2] = {};
      for (int d = 0; d < head_dim; d += 2) {
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
          Vector left = -(rest * load(s.output + (d + i) * kStripRows + lane));
          left = left - summary * block_value[d + i];
#pragma GCC unroll 8
          for (int r = 0; r < kRuns; ++r) left = left + weight[r] * value[r * head_dim + d + i];
          error[i] = error[i] + left * left;
        }
      }
      store(s.error + block * kStripRows + lane, error[0] + error[1]);
    }
  }
}

// An error as an integer of the same order: above 0, and the largest for what is not a number.
inline uint32_t rank_of(float error) {
  return (error < __builtin_inff() ? __builtin_bit_cast(uint32_t, error) : kInfinityBits) + 1;
}

inline int count_at_or_above(const uint32_t* rank, int blocks, uint32_t lowest) {
  int count = 0;
  for (int j = 0; j < blocks; ++j) count += rank[j] >= lowest;
  return count;
}

// Sets the bits of the `count` blocks with the largest ranks, ties to the lower index. Rank 0 is
// never chosen.
inline void choose_blocks(const uint32_t* rank, int blocks, int count, int32_t* mask_row) {
  const int available = count_at_or_above(rank, blocks, 1);
  if (count > available) count = available;
  if (count == 0) return;
  // The rank of the last block that is chosen, bit by bit.
  uint32_t lowest = 0;
  for (uint32_t bit = 1u << 30; bit != 0; bit >>= 1) {
    if (count_at_or_above(rank, blocks, lowest | bit) >= count) lowest |= bit;
  }
  int ties = count - count_at_or_above(rank, blocks, lowest + 1);
  for (int j = 0; j < blocks; ++j) {
    if (rank[j] < lowest || (rank[j] == lowest && ties-- <= 0)) continue;
    mask_row[j / 32] |= static_cast<int32_t>(1u << (j % 32));
  }
}

// Chooses blocks for the query blocks of one strip of runs.
inline void route_queries(const HeadJob& job, int32_t head, int32_t strip, Scratch& scratch) {
  const paro_attention& call = *job.call;
  const int count = job.dynamic_blocks(head), first = strip * kStripRows * kRoutingRun;
  if (count == 0 || first >= job.length) return;
  const RoutingScratch& s = scratch.routing;
  const int key_blocks = (job.length + call.block_k - 1) / call.block_k;
  load_mean_rows(job, head, first, scratch);
  attend_means(job, key_blocks, s);
  call.block_k == 64 ? estimate_errors<64 / kRoutingRun>(job, key_blocks, s)
                     : estimate_errors<128 / kRoutingRun>(job, key_blocks, s);

  uint32_t* rank = reinterpret_cast<uint32_t*>(s.weight);  // the weights have been used
  const int words = (job.key_blocks + 31) / 32, lanes = call.block_q / kRoutingRun;
  for (int lane = 0; lane < kStripRows; lane += lanes) {
    const int start = first + lane * kRoutingRun, block = start / call.block_q;
    const int rest = (job.length - start + kRoutingRun - 1) / kRoutingRun;
    if (rest <= 0) return;
    const int existing = rest < lanes ? rest : lanes;
    const int64_t row = (int64_t{job.mask_bin} * call.heads + head) * job.query_blocks + block;
    const int64_t own = int64_t{job.in_group(head)} * job.query_blocks + block;
    const int32_t* mask = call.block_mask + row * words;
    for (int j = 0; j < key_blocks; ++j) {
      const bool exact = (static_cast<uint32_t>(mask[j / 32]) >> (j % 32) & 1) != 0;
      float error = 0.0f;
      for (int i = 0; i < existing; ++i) error += s.error[j * kStripRows + lane + i];
      rank[j] = exact ? 0 : rank_of(error);
    }
    int32_t* routed = job.routed_mask + own * words;
    for (int w = 0; w < words; ++w) routed[w] = mask[w];
    choose_blocks(rank, key_blocks, count, routed);
  }
}

}  // namespace paro::cpu::PARO_ISA
