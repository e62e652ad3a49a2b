// The part of the logits that a mean query gives: its product with each key less the mean of the
// key's block, one value for each pair of a query block and a key, in base-2 logits.
//
// A warp holds its keys of one block as operands and multiplies 16 query blocks after the others by
// them, where one of these has the key block on its mask.
//
// Grid: x key block, y head of the launch.
#pragma once

#include "kernels/summaries/mean_queries.cuh"
#include "ptx/mma.cuh"

namespace paro::kernels::smoothing {

constexpr int bias_threads = 128;

// The bias of a key without a token: below every logit, and finite.
constexpr float absent_bias = -1e30f;

// Four 8-bit codes as 16-bit numbers, which are exact. 2^23 + 128 + code is a float whose lowest
// byte is the code with its sign bit changed.
DEVICE_FN void widen_codes(uint32_t codes, bool is_bfloat16, uint32_t (&pairs)[2]) {
  const uint32_t biased = codes ^ 0x80808080u;
  float x[4];
#pragma unroll
  for (uint32_t i = 0; i < 4; i++) {
    x[i] = __uint_as_float(__byte_perm(biased, 0x4B000000u, 0x7440u | i)) - 8388736.0f;
  }
  pairs[0] = pair_from_floats(x[0], x[1], is_bfloat16);
  pairs[1] = pair_from_floats(x[2], x[3], is_bfloat16);
}

// Mask rows of a head of the launch: [NQ, W].
DEVICE_FN const uint32_t* mask_rows(const SmoothingParams& p, const summaries::LaunchHead& at,
                                    int index) {
  const Geometry& g = p.geometry;
  const int64_t rows = static_cast<int64_t>(g.query_blocks) * g.mask_words;
  if (p.routed_mask != nullptr) return p.routed_mask + index * rows;
  const int bin = min(max(__ldg(p.plan.mask_bin + at.unit.sample), 0), g.bins - 1);
  return reinterpret_cast<const uint32_t*>(p.plan.block_mask) + (bin * g.heads + at.head) * rows;
}

// Channels of an operand: lane i of a quad takes 16 consecutive ones of each 64, four for each of
// four products. Both operands do, and a product does not depend on the order of its channels.
template <bool IsBfloat16, int D, int BlockK>
__global__ void __launch_bounds__(bias_threads) key_biases(const SmoothingParams p) {
  constexpr int warp_keys = BlockK / (bias_threads / 32), fragments = warp_keys / 8;
  constexpr int depth = D / 16;
  const Geometry& g = p.geometry;
  const int index = static_cast<int>(blockIdx.y), block = static_cast<int>(blockIdx.x);
  const summaries::LaunchHead at = summaries::head_at(g, index);
  const int length = length_of(g, p.plan, at.unit.sample);
  if (block * BlockK >= length) return;
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const int row = lane / 4, column = lane % 4;
  const int64_t key_block = static_cast<int64_t>(at.unit.index) * g.key_blocks + block;
  const uint8_t* keys = p.keys.centred + (key_block * BlockK + warp * warp_keys) * D;
  uint32_t b[fragments][depth][2];
#pragma unroll
  for (int n = 0; n < fragments; n++) {
#pragma unroll
    for (int k = 0; k < depth; k += 4) {
      const uint4 codes = __ldg(
          reinterpret_cast<const uint4*>(keys + (n * 8 + row) * D + k * 16 + column * 16));
      widen_codes(codes.x, IsBfloat16, b[n][k]);
      widen_codes(codes.y, IsBfloat16, b[n][k + 1]);
      widen_codes(codes.z, IsBfloat16, b[n][k + 2]);
      widen_codes(codes.w, IsBfloat16, b[n][k + 3]);
    }
  }
  const float factor = __ldg(p.keys.centred_scale + key_block) * p.logit_scale;
  const uint32_t* masks = mask_rows(p, at, index) + block / 32;
#pragma unroll 1
  for (int first = 0; first < g.query_blocks; first += 16) {
    bool listed[2];
    uint4 q[2][depth / 2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int query_block = first + half * 8 + row;
      listed[half] = query_block < g.query_blocks &&
                     (__ldg(masks + static_cast<int64_t>(min(query_block, g.query_blocks - 1)) *
                                        g.mask_words) >> block % 32 & 1u) != 0;
    }
    if (!__any_sync(~0u, listed[0] || listed[1])) continue;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int64_t query_block = min(first + half * 8 + row, g.query_blocks - 1);
      const uint16_t* source =
          p.mean_query + (static_cast<int64_t>(index) * g.query_blocks + query_block) * D;
#pragma unroll
      for (int k = 0; k < depth / 2; k++) {
        // Eight channels: of products 2 k and 2 k + 1.
        q[half][k] = __ldg(reinterpret_cast<const uint4*>(
            source + k / 2 * 64 + column * 16 + k % 2 * 8));
      }
    }
    float sum[fragments][4] = {};
#pragma unroll
    for (int k = 0; k < depth; k++) {
      const uint4 &upper = q[0][k / 2], &lower = q[1][k / 2];
      const uint32_t a[4] = {k % 2 == 0 ? upper.x : upper.z, k % 2 == 0 ? lower.x : lower.z,
                             k % 2 == 0 ? upper.y : upper.w, k % 2 == 0 ? lower.y : lower.w};
#pragma unroll
      for (int n = 0; n < fragments; n++) {
        IsBfloat16 ? ptx::mma_bf16(sum[n], a, b[n][k]) : ptx::mma_f16(sum[n], a, b[n][k]);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (!listed[half]) continue;
      const int64_t query_block =
          static_cast<int64_t>(index) * g.query_blocks + first + half * 8 + row;
      float* target = p.bias + (query_block * g.key_blocks + block) * BlockK;
#pragma unroll
      for (int n = 0; n < fragments; n++) {
        const int key = warp * warp_keys + n * 8 + column * 2;
        const int left = length - block * BlockK - key;
        *reinterpret_cast<float2*>(target + key / 16 * 16 + column * 4 + n % 2 * 2) = {
            left > 0 ? sum[n][2 * half] * factor : absent_bias,
            left > 1 ? sum[n][2 * half + 1] * factor : absent_bias};
      }
    }
  }
}

}  // namespace paro::kernels::smoothing
