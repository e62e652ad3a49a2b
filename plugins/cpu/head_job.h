// One key/value head of one sample: what stage 1 writes and stage 2 reads. It holds only plain
// data, because translation units compiled for different instruction sets share it.
#pragma once

#include <cstdint>

#include "paro/paro_c.h"

namespace paro::cpu {

// Operands of both products are stored in words of four bytes. A word holds one float, or two or
// four elements that are neighbours along the summed axis. An instruction set multiplies a vector
// of words with one instruction.
typedef uint32_t Word;

enum class Operand : int32_t { kFloat32, kBfloat16, kInt16, kInt8 };

// N blocks of block_k keys and values, with one key scale per block, or one per key where keys are
// smoothed. Keys past the end of the sequence are zeros.
struct KeyBlocks {
  Word* key;           // [N][block_k][D / elements in a word]
  int32_t* key_start;  // [N][block_k] start value of a key's sum over codes; codes only
  float* key_scale;    // [N]; smoothed tokens: [N][block_k]
  Word* value;         // [N][D][block_k / elements in a word]
  float* value_scale;  // [N][D]; codes only
};

// The keys of N blocks less the mean of their block, at 8 bits: what means of queries meet, while
// the tokens have the same at 4 bits.
struct CentredKeys {
  Word* key;           // [N][block_k][D / elements in a word]
  int32_t* key_start;  // [N][block_k], as in KeyBlocks
  float* key_scale;    // [N]
};

// Four summary tokens for each of N key blocks. The four have one scale of their keys, and one of
// their values, which are codes of 8 bits where values are quantized.
struct FineGroups {
  Word* key;           // [N][4][D / elements in a word]
  int32_t* key_start;  // [N][4], as in KeyBlocks
  float* key_scale;    // [N]
  Word* value;         // [N][4 / elements in a word][D], neighbours: summaries
  float* value_scale;  // [N]; codes only
};

// What the estimate of routing takes in place of the tokens: means of keys and values, over runs of
// kRoutingRun tokens and over blocks. R is the number of runs.
struct RoutingMeans {
  float* key;               // [R][D]
  float* value;             // [R][D]
  float* value_of_channel;  // [D][R]
  float* block_key;         // [NK][D]
  float* block_value;       // [NK][D]
};

// The mean query of each run of kCorrectionRows rows of each head of the group, as any query row is
// stored, and what it attends to if nothing is dropped. R is the number of runs.
struct MeanQueries {
  Word* query;    // [heads][R][key_words]
  float* factor;  // [heads][R], as Scratch::row_factor
  float* dense;   // [heads][R][D]
};

constexpr int32_t kFineSummaries = 4;     // of a fine block
constexpr int32_t kFineStepGroups = 16;   // whose summaries are attended as one run of keys
constexpr int32_t kFineStepKeys = kFineSummaries * kFineStepGroups;
constexpr int32_t kSmoothedStep = 16;  // blocks of smoothed keys whose means meet the rows at once
constexpr int32_t kCorrectionRows = 128;  // consecutive rows that share a mean query
constexpr int32_t kRoutingRun = 16;       // consecutive tokens that share a mean

// Views into the caller's workspace, and the values that all query heads of the group share.
struct HeadJob {
  const paro_attention* call;
  int32_t sample;
  int32_t kv_head;
  int32_t length;        // number of tokens in the reordered sequence
  int32_t mask_bin;      // clamped to the plan's bins
  int32_t key_blocks;    // NK
  int32_t query_blocks;  // NQ
  const int32_t* order;  // [S]: the token at each position, for every head of the group
  const int32_t* signs;  // [D] of the rotation of queries and keys; null: none

  Operand key_operand;    // of Q and K
  Operand value_operand;  // of P and V
  int32_t key_words;      // words of one key: D / elements in a word
  int32_t value_words;    // words of one channel of a block: block_k / elements in a word

  KeyBlocks tokens;     // NK blocks
  KeyBlocks summaries;  // blocks of block_k summary tokens; values: none unless pooled
  int32_t summary_blocks;  // how many; 0 unless pooled or smoothed
  float* key_mean;      // [NK][D], preconditioned
  float* value_mean;    // [NK][D]; none unless pooled
  CentredKeys centred;  // of NK blocks; none unless smoothing
  FineGroups fine;      // of NK blocks; none unless fine_summaries

  int32_t routing_runs;   // runs of key blocks, and of query blocks
  int32_t query_runs;
  int32_t mean_queries;   // runs of kCorrectionRows rows
  RoutingMeans routing;   // none unless routing
  int32_t* routed_mask;   // [heads of the group][NQ][W] the mask with the blocks that were chosen
  MeanQueries means;      // none unless mean_correction

  // The number of tokens in a key block, and in a query block. They are always inlined: a copy
  // outside of its caller could be compiled with instructions that other machines lack.
  __attribute__((always_inline)) int32_t tokens_in(int32_t block) const {
    return existing(block, call->block_k);
  }
  __attribute__((always_inline)) int32_t queries_in(int32_t block) const {
    return existing(block, call->block_q);
  }
  // The number of tokens in run `run` of `size` tokens of a key block.
  __attribute__((always_inline)) int32_t tokens_in_run(int32_t block, int32_t run,
                                                       int32_t size) const {
    const int32_t rest = tokens_in(block) - run * size;
    return rest < 0 ? 0 : rest < size ? rest : size;
  }

  // Bits of summary keys, and of queries as they meet those.
  __attribute__((always_inline)) int32_t summary_key_bits() const {
    return call->smoothing ? 8 : call->qk_bits;
  }
  // How many more blocks a query block of this head chooses.
  __attribute__((always_inline)) int32_t dynamic_blocks(int32_t head) const {
    if (call->routing == 0) return 0;
    const int32_t count = call->dynamic_blocks[int64_t{mask_bin} * call->heads + head];
    return count < 0 ? 0 : count < key_blocks ? count : key_blocks;
  }
  __attribute__((always_inline)) bool is_corrected(int32_t head) const {
    return call->mean_correction != 0 && call->corrected_heads[head] != 0;
  }
  // The place of a head in its group.
  __attribute__((always_inline)) int32_t in_group(int32_t head) const {
    return head - kv_head * (call->heads / call->kv_heads);
  }

 private:
  __attribute__((always_inline)) int32_t existing(int32_t block, int32_t size) const {
    const int32_t rest = length - block * size;
    return rest < 0 ? 0 : rest < size ? rest : size;
  }
};

// One strip of runs of query rows, while blocks are chosen for them; routing only.
struct RoutingScratch {
  float* query;    // [D][R]
  float* weight;   // [routing_runs][R]
  float* summary;  // [NK][R] the weight that a block's summary token has
  float* output;   // [D][R]
  float* error;    // [NK][R]
};

// A smoothed query block, and what means contribute to the logits of one step of key blocks;
// smoothing only.
struct SmoothingScratch {
  Word* residual;     // [strips][key_words][R] rows less their mean
  float* factor;      // [strips][R], as Scratch::row_factor
  Word* mean_key;     // [kSmoothedStep][key_words] means of the step's blocks
  float* row_logits;  // [strips][kSmoothedStep][R] of the rows with those
  float* key_logits;  // [kSmoothedStep][block_k] of the rows' mean with the keys less those
};

// Memory of one thread, reused for every block and tile. A query block is cut into strips of R
// rows, which lie next to each other in vectors. D is the number of channels.
struct Scratch {
  float* rows;         // [block_k][D] tokens that stage 1 is processing
  float* sums;         // [block_k][D] partial sums of a mean; words before their transpose
  Word* query;         // [strips][key_words][R]
  float* row_factor;   // [strips][R] query scale * softmax scale * log2(e)
  float* output;       // [strips][D][R]
  float* row_maximum;  // [strips][R]
  float* row_sum;      // [strips][R]
  float* logits;       // [block_k][R] of one strip
  Word* weights;       // [value_words][R] of one strip: P as words of the product P V
  Word* step_value;    // [D][words of kFineStepKeys]; fine_summaries only
  RoutingScratch routing;
  SmoothingScratch smoothing;
};

// One instruction set's versions of the work on a head.
struct HeadKernels {
  const char* name;
  Operand codes;  // how this instruction set stores quantized operands
  bool multiplies_bfloat16;
  int32_t strip_rows;  // R
  void (*prepare_key_block)(const HeadJob&, int32_t block, Scratch&);
  void (*prepare_summary_block)(const HeadJob&, int32_t group, Scratch&);
  void (*prepare_mean_query)(const HeadJob&, int32_t head, int32_t run, Scratch&);
  void (*attend_mean_queries)(const HeadJob&, int32_t head, int32_t strip, Scratch&);
  void (*route_queries)(const HeadJob&, int32_t head, int32_t strip, Scratch&);
  void (*attend_tile)(const HeadJob&, int32_t head, int32_t query_block, Scratch&);
  double (*multiply_add_chains)(int64_t steps, float* sink);  // for paro_measure_peak
};

extern const HeadKernels generic_kernels;
#if defined(__x86_64__)
extern const HeadKernels avx2_kernels;
extern const HeadKernels avx2_vnni_kernels;
extern const HeadKernels avx512_kernels;
extern const HeadKernels avx512_vnni_kernels;
extern const HeadKernels avx512_bf16_kernels;
#elif defined(__aarch64__)
extern const HeadKernels neon_dot_kernels;
#endif

}  // namespace paro::cpu
