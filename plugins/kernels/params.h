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

// Stage 1: tokens to key blocks (`tokens` sources), or means to summary blocks.
struct ReorderParams {
  Geometry geometry;
  Plan plan;
  const void* key;    // [B, S, Hk, D]; unused for means
  const void* value;  // [B, S, Hk, D]
  BlockMeans means;   // written from tokens where pooled, read for summaries
  PreparedKeys prepared;
  Number key_number;    // of `prepared.key`
  Number value_number;  // of `prepared.value`
  TileLayout layout;    // of both; swizzled: both are s8
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
};

}  // namespace paro::kernels
