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

// N blocks of block_k keys and values, with one key scale per block. Keys past the end of the
// sequence are zeros.
struct KeyBlocks {
  Word* key;           // [N][block_k][D / elements in a word]
  int32_t* key_start;  // [N][block_k] start value of a key's sum over codes; codes only
  float* key_scale;    // [N]
  Word* value;         // [N][D][block_k / elements in a word]
  float* value_scale;  // [N][D]; codes only
};

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

  Operand key_operand;    // of Q and K
  Operand value_operand;  // of P and V
  int32_t key_words;      // words of one key: D / elements in a word
  int32_t value_words;    // words of one channel of a block: block_k / elements in a word

  KeyBlocks tokens;     // NK blocks
  KeyBlocks summaries;  // blocks of block_k summary tokens; none unless pooled
  float* key_mean;      // [NK][D], preconditioned
  float* value_mean;    // [NK][D]

  // The number of tokens in a key block, and in a query block. They are always inlined: a copy
  // outside of its caller could be compiled with instructions that other machines lack.
  __attribute__((always_inline)) int32_t tokens_in(int32_t block) const {
    return existing(block, call->block_k);
  }
  __attribute__((always_inline)) int32_t queries_in(int32_t block) const {
    return existing(block, call->block_q);
  }

 private:
  __attribute__((always_inline)) int32_t existing(int32_t block, int32_t size) const {
    const int32_t rest = length - block * size;
    return rest < 0 ? 0 : rest < size ? rest : size;
  }
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
};

// One instruction set's versions of the work on a head.
struct HeadKernels {
  const char* name;
  Operand codes;  // how this instruction set stores quantized operands
  bool multiplies_bfloat16;
  void (*prepare_key_block)(const HeadJob&, int32_t block, Scratch&);
  void (*prepare_summary_block)(const HeadJob&, int32_t group, Scratch&);
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
