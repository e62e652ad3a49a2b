// One key/value head of one sample: what stage 1 writes and stage 2 reads. Plain data only, since
// translation units compiled for different instruction sets share it.
#pragma once

#include <cstdint>

#include "paro/paro_c.h"

namespace paro::cpu {

// Views into the caller's workspace, and what is the same for all query heads of the group.
// N = NK token blocks; G = blocks of block_k summary tokens (0 unless pooled).
struct HeadJob {
  const paro_attention* call;
  int32_t sample;
  int32_t kv_head;
  int32_t length;        // tokens of the reordered sequence that exist
  int32_t mask_bin;      // clamped
  int32_t key_blocks;    // NK
  int32_t query_blocks;  // NQ
  const int32_t* order;  // [S]: the token at each position, for every head of the group

  float* key;          // [NK][block_k][D] codes (values at 16 bits)
  float* key_scale;    // [NK]
  float* value;        // [NK][D][block_k] codes; at 4 bits codes times scale, at 16 bits values
  float* value_scale;  // [NK]; 1 where `value` needs none

  float* key_mean;    // [NK][D], preconditioned
  float* value_mean;  // [NK][D]
  float* summary_key;          // [G][block_k][D]
  float* summary_key_scale;    // [G]
  float* summary_value;        // [G][D][block_k]
  float* summary_value_scale;  // [G]

  int32_t tokens_in(int32_t block) const {
    const int32_t rest = length - block * call->block_k;
    return rest < 0 ? 0 : rest < call->block_k ? rest : call->block_k;
  }
};

// Memory of one thread, reused from tile to tile. Q = block_q rows, side by side in vectors.
struct TileScratch {
  float* query;        // [D][Q] codes
  float* row_factor;   // [Q] query scale * softmax scale * log2(e)
  float* logits;       // [block_k][Q], then probabilities
  float* output;       // [D][Q]
  float* row_maximum;  // [Q]
  float* row_sum;      // [Q]
  float* picked_key;   // [block_k][D] summary tokens off the mask
  float* picked_value; // [D][block_k]
  float* picked_bias;  // [block_k]
  float* block;        // [block_k][D] values on their way through stage 1
};

// The instruction set's versions of the work on a head.
struct HeadKernels {
  const char* name;
  void (*prepare_key_block)(const HeadJob&, int32_t block, TileScratch&);
  void (*prepare_summary_block)(const HeadJob&, int32_t group, TileScratch&);
  void (*attend_tile)(const HeadJob&, int32_t head, int32_t query_block, TileScratch&);
  double (*multiply_add_chains)(int64_t steps, float* sink);  // for paro_measure_peak
};

extern const HeadKernels generic_kernels;
#if defined(__x86_64__)
extern const HeadKernels avx2_kernels;
extern const HeadKernels avx512_kernels;
#endif

}  // namespace paro::cpu
