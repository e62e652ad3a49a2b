// One key/value head of one sample: what stage 1 writes and stage 2 reads. Plain data only, since
// translation units compiled for different instruction sets share it.
#pragma once

#include <cstdint>

#include "paro/paro_c.h"

namespace paro::cpu {

// Operands of both products lie in words of four bytes, which an instruction set multiplies with
// one instruction a vector of words: one float, or two or four neighbours along the summed axis.
typedef uint32_t Word;

enum class Operand : int32_t { kFloat32, kBfloat16, kInt16, kInt8 };

// Blocks of block_k keys and values with one key scale each, N of them. Keys that do not exist
// are zeros.
struct KeyBlocks {
  Word* key;           // [N][block_k][D / elements in a word]
  int32_t* key_start;  // [N][block_k] what the sum over a key's codes starts at; codes only
  float* key_scale;    // [N]
  Word* value;         // [N][D][block_k / elements in a word]
  float* value_scale;  // [N][D]; codes only
};

// Views into the caller's workspace, and what is the same for all query heads of the group.
struct HeadJob {
  const paro_attention* call;
  int32_t sample;
  int32_t kv_head;
  int32_t length;        // tokens of the reordered sequence that exist
  int32_t mask_bin;      // clamped
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

  // How many tokens exist of a key block, and of a query block. Always inlined: they may be
  // compiled with instructions that other machines lack.
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

// Memory of one thread, reused from block to block and from tile to tile. A query block is cut
// into strips of R rows that lie next to each other in vectors; D channels.
struct Scratch {
  float* rows;         // [block_k][D] tokens on their way through stage 1
  float* sums;         // [block_k][D] halves of a mean; words on their way to their transpose
  Word* query;         // [strips][key_words][R]
  float* row_factor;   // [strips][R] query scale * softmax scale * log2(e)
  float* output;       // [strips][D][R]
  float* row_maximum;  // [strips][R]
  float* row_sum;      // [strips][R]
  float* logits;       // [block_k][R] of one strip
  Word* weights;       // [value_words][R] of one strip: P in the words of its product
};

// The instruction set's versions of the work on a head.
struct HeadKernels {
  const char* name;
  Operand codes;  // how it stores quantized operands
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
