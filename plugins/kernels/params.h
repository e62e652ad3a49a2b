// The parameters of the kernels: one POD for each stage, every pointer with its shape.
//
// A unit is one key/value head of one sample: unit = sample * Hk + kv_head. A launch works on
// `units` of them, starting with `first_unit`; indices into the workspace count from that one.
// NK key blocks of tokens are followed by G blocks of summary tokens (0 unless pooled).
#pragma once

#include <cstdint>

namespace paro::kernels {

// Keys of a prepared value tile: integer values lie transposed, this many keys to a channel.
constexpr int value_tile_keys = 64;

// How numbers are stored. s4 is packed two to a byte, the even one in the low nibble.
enum class Number { f16, bf16, f32, s8, s4 };

constexpr int bits_of(Number number) {
  switch (number) {
    case Number::f32: return 32;
    case Number::s8: return 8;
    case Number::s4: return 4;
    default: return 16;
  }
}

// How 4-bit products are computed. The tensor cores of sm_80 to sm_89 take 4-bit operands. Later
// ones would emulate them by many instructions, so the codes are unpacked to 8 bits there.
enum class FourBit { native, unpacked };

constexpr bool is_integer(Number number) { return number == Number::s8 || number == Number::s4; }

// How rows of 8-bit tiles lie in the workspace: in their own order, or with the 16-byte chunks of
// each row permuted as wgmma reads them from shared memory (swizzle.cuh), so that a plain copy
// suffices.
enum class TileLayout { rows, swizzled };

// Words of the mask of one query block in shared memory, with a bit for each span of `span_keys`
// keys. The mask words of the plan, W, have a bit for each key block.
constexpr int span_mask_words(int key_blocks, int block_k, int span_keys) {
  return (key_blocks * (block_k / span_keys) + 31) / 32;
}

struct Geometry {
  int32_t tokens;          // S
  int32_t heads;           // H
  int32_t kv_heads;        // Hk
  int32_t orders;          // O
  int32_t bins;            // T
  int32_t query_blocks;    // NQ
  int32_t key_blocks;      // NK
  int32_t summary_blocks;  // G
  int32_t mask_words;      // W
  int32_t block_q;         // 64 or 128
  int32_t block_k;         // 64 or 128
  int32_t first_unit;
  int32_t units;
};

// The plan's tensors. Nothing in them is trusted: every index read from them is clamped.
struct Plan {
  const int32_t* token_order;   // [O, S]
  const int32_t* head_order;    // [H]
  const int32_t* block_mask;    // [T, H, NQ, W]
  const int32_t* tile_order;    // [T, H*NQ]
  const float* channel_affine;  // [4, Hk, D]
  const int32_t* mask_bin;      // [B]
  const int32_t* key_length;    // [B]
  // Version 2; null where not used.
  const int32_t* fine_mask;        // [T, H, NQ, W]
  const int32_t* corrected_heads;  // [H]
  const int32_t* dynamic_blocks;   // [T, H]
  const int32_t* rotation;         // [Hk, D]
};

// Keys and values as stage 1 leaves them for stage 2. N = NK + G blocks a unit.
struct PreparedKeys {
  uint8_t* key;        // [units, N, block_k, D] codes
  uint8_t* value;      // integers: [units, N * block_k / 64, D, 64] codes, keys in `value order`
                       // (value_order.h); 16 bits: [units, N, block_k, D]
  float* key_scale;    // [units, N]; unused at 16 bits
  float* value_scale;  // [units, N] at 8 bits, [units, N, D] at 4; unused at 16
};

// Means of token blocks, from which summary tokens are made.
struct BlockMeans {
  float* key;    // [units, NK, D]
  float* value;  // [units, NK, D]
};

// Blocks of the means of all key blocks, with or without pooling.
constexpr int mean_blocks(int key_blocks, int block_k) {
  return (key_blocks + block_k - 1) / block_k;
}

// What smoothed keys have besides the 4-bit codes in PreparedKeys::key, which are of keys less their
// block's mean. GM = mean_blocks(NK, block_k). Null where not used.
struct SmoothedKeys {
  float* key_scale;      // [units, NK, block_k / 2, 4], of the 4-bit codes: s0, s1, -b s0, -b s1
                         // of two keys, b the bias of accumulators (ptx::bias_value)
  uint8_t* centred;      // [units, NK, block_k, D] codes of the same keys at 8 bits
  float* centred_scale;  // [units, NK]
  uint8_t* mean;         // [units, GM, block_k, D] codes of the blocks' means at 8 bits
  float* mean_scale;     // [units, GM]
};

// Consecutive tokens whose mean is one row of routing's estimate, and query rows that share one
// corrected mean.
constexpr int routing_run = 16;
constexpr int correction_rows = 128;

// Routing's estimate walks four key blocks a step, and a thread block of it takes 64 query runs:
// its arrays hold whole ones.
constexpr int routing_step_blocks = 4;
constexpr int routing_block_runs = 64;

constexpr int routing_blocks(int key_blocks) {
  return (key_blocks + routing_step_blocks - 1) / routing_step_blocks * routing_step_blocks;
}

constexpr int routing_query_runs(int query_blocks, int block_q) {
  const int runs = query_blocks * (block_q / routing_run);
  return (runs + routing_block_runs - 1) / routing_block_runs * routing_block_runs;
}

// Floats for the products of a block's values: (R + 1) (R + 2) / 2 for R runs and the block's mean,
// rounded up.
constexpr int routing_products(int runs) { return runs == 4 ? 16 : 48; }

// Summary tokens of a fine key block, and the groups of them that form a step of 64 keys.
constexpr int fine_summaries = 4;
constexpr int fine_step_groups = 16;
constexpr int fine_step_keys = fine_step_groups * fine_summaries;

// The type of the values of fine summaries: a scale for each channel could not be gathered, so that
// 4-bit calls have 8 bits there.
constexpr Number fine_number(Number value) { return value == Number::s4 ? Number::s8 : value; }

// The four summaries of each key block, a group. Gathered by stage 2.
struct FineGroups {
  uint8_t* key;        // [units, NK, 4, D] codes
  uint8_t* value;      // 8 bits: [units, NK, D, 4] codes; 16 bits: [units, NK, 4, D]
  float* key_scale;    // [units, NK]; unused at 16 bits
  float* value_scale;  // [units, NK]; unused at 16 bits
};

// Stage 1's addition: tokens to groups of fine summaries.
struct FineParams {
  Geometry geometry;
  Plan plan;
  const void* key;    // [B, S, Hk, D]
  const void* value;  // [B, S, Hk, D]
  FineGroups fine;
  Number key_number;    // of `fine.key`
  Number value_number;  // of `fine.value`
};

// What routing estimates from, in the inputs' 16-bit type. NJ = routing_blocks(NK), R = block_k / 16
// the runs of a key block. Rows without a token are 0. The query heads of a launch are counted unit
// by unit.
struct RoutingMeans {
  uint16_t* query;             // [heads, routing_query_runs, D]
  uint16_t* key;               // [units, NJ, R, D]
  uint16_t* value;             // [units, NJ, R, D]
  uint16_t* transposed_value;  // [units, NJ / 4, D, 4 * R]
  uint16_t* block_key;         // [units, NJ, D]
  uint16_t* block_value;       // [units, NJ, D]
  float* gram;   // [units, NJ, routing_products]: of the block's R values and their mean
  float* error;  // [heads, NQ, NK], the estimate
};

struct RoutingParams {
  Geometry geometry;
  Plan plan;
  const void* query;  // [B, S, H, D]
  const void* key;    // [B, S, Hk, D]
  const void* value;  // [B, S, Hk, D]
  RoutingMeans means;
  uint32_t* mask;     // [heads, NQ, W]: block_mask with the chosen blocks
  float logit_scale;  // softmax scale * log2(e)
  bool pooled;
};

// Stage 1: tokens to key blocks (`tokens` sources), or means to summary blocks.
struct ReorderParams {
  Geometry geometry;
  Plan plan;
  const void* key;    // [B, S, Hk, D]; unused for means
  const void* value;  // [B, S, Hk, D]
  BlockMeans means;   // written from tokens where pooled, read for summaries
  PreparedKeys prepared;
  SmoothedKeys smoothed;
  Number key_number;    // of `prepared.key`
  Number value_number;  // of `prepared.value`
  TileLayout layout;    // of both; swizzled: both are s8
  int32_t* tiles_taken;  // of AttentionParams: set to 0 for the stage that follows
};

// Between the stages of a smoothed call: mean queries, and the part of the logits that they give.
struct SmoothingParams {
  Geometry geometry;
  Plan plan;
  const void* query;  // [B, S, H, D]
  SmoothedKeys keys;
  const uint32_t* routed_mask;  // as in AttentionParams
  uint16_t* mean_query;  // [heads of the launch, NQ, D] of query blocks, in the inputs' type
  // [heads of the launch, NQ, NK, block_k / 16, 4, 4], written where the mask has a block. Of 16
  // keys, [i] has 2 i, 2 i + 1, 2 i + 8 and 2 i + 9: what lane i of a quad reads at once.
  float* bias;
  float logit_scale;     // softmax scale * log2(e)
};

// Stage 2.
struct AttentionParams {
  Geometry geometry;
  Plan plan;
  const void* query;  // [B, S, H, D]
  void* output;       // [B, S, H, D]
  PreparedKeys prepared;
  float logit_scale;  // softmax scale * log2(e)
  bool is_bfloat16;   // query and output
  // Version 2; null where not used.
  FineGroups fine;
  const uint32_t* routed_mask;  // [heads of the launch, NQ, W], instead of block_mask
  const float* correction;      // [heads of the launch, NQ, D], added to rows of corrected_heads
  SmoothedKeys smoothed;
  const uint16_t* mean_query;  // of SmoothingParams
  const float* bias;
  // Query blocks of all samples, and how many of them thread blocks that compute several have taken,
  // in addition to a first one each.
  int32_t tiles;
  int32_t* tiles_taken;
};

// The mean correction. A row is the mean query of the run that a query block lies in.
struct CorrectionParams {
  AttentionParams attention;  // of the call: the same keys, masks and scale
  const float* mean_query;    // [heads of the launch, runs of 128 rows, D], not equalized
  float* correction;          // [heads of the launch, NQ, D]
  TileLayout layout;          // of the prepared keys
};

}  // namespace paro::kernels
