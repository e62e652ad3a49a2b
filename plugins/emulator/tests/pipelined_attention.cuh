// A kernel for sm_80 and later: cp.async ring, ldmatrix, mma.sync, ragged tail, scatter epilogue.
// `bug` plants a mistake that the emulator must catch. Bug::none is the correct kernel.
#pragma once

#include <cstddef>

#include "emulator/tests/integer_attention.h"
#include "ptx/cp_async.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mma.cuh"

namespace mutants::pipelined {

enum class Bug {
  none,
  missing_barrier,
  missing_wait,
  wait_off_by_one,
  missing_commit,
  stale_slot,
  wrong_swizzle,
  bank_offset,
  tail_off_by_one,
  wrong_scatter,
  divergent_shuffle,
  missing_fill,
};

constexpr int slots = 3, rows_per_block = 64, threads = 128;
constexpr uint32_t tile_bytes = block_keys * head_dim;

struct SharedTiles {
  uint8_t query[tile_bytes];
  uint8_t key[slots][tile_bytes];
  uint8_t value[slots][tile_bytes];
};

struct Parameters {
  const int8_t* query;             // [query_rows][head_dim]
  const int8_t* key;               // [tokens][head_dim]
  const int8_t* value_transposed;  // [key blocks][head_dim][block_keys]
  const int* blocks;
  const int* row_order;
  int32_t* output;
  int32_t* row_sum;
  int block_count, tokens, query_rows;
};

// The offset of a 16-byte chunk in a tile of 64-byte rows. The same chunk of eight rows lies in
// eight different bank groups.
__device__ uint32_t chunk_offset(uint32_t row, uint32_t chunk) {
  return row * 64 + ((chunk ^ (row >> 1 & 3)) << 4);
}

__device__ void copy_tile(uint32_t tile, const int8_t* rows, int existing_rows) {
  for (uint32_t i = threadIdx.x; i < tile_bytes / 16; i += threads) {
    const uint32_t row = i / 4, chunk = i % 4;
    const bool exists = static_cast<int>(row) < existing_rows;
    paro::ptx::cp_async_16(tile + chunk_offset(row, chunk),
                           rows + (exists ? row * 64 + chunk * 16 : 0), exists);
  }
}

template <Bug bug>
__global__ void pipelined_attention(Parameters p) {
  DYN_SMEM(shared);
  const uint32_t base = paro::ptx::shared_u32(shared);
  const uint32_t query_tile = base + offsetof(SharedTiles, query);
  const uint32_t key_tiles = base + offsetof(SharedTiles, key);
  const uint32_t value_tiles = base + offsetof(SharedTiles, value);
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int first_row = static_cast<int>(blockIdx.x) * rows_per_block;

  const auto fetch = [&](int step) {
    const int block = p.blocks[step], first_key = block * block_keys;
    const uint32_t slot = static_cast<uint32_t>(step % slots) * tile_bytes;
    const int existing =
        bug == Bug::missing_fill ? min(p.tokens - first_key, 32) : p.tokens - first_key;
    copy_tile(key_tiles + slot, p.key + first_key * head_dim, existing);
    copy_tile(value_tiles + slot, p.value_transposed + block * head_dim * block_keys, head_dim);
  };
  copy_tile(query_tile, p.query + first_row * head_dim, p.query_rows - first_row);
  for (int step = 0; step < slots - 1; step++) {
    if (step < p.block_count) fetch(step);
    paro::ptx::cp_async_commit();
  }

  int32_t output[head_dim / 8][4] = {};
  uint32_t sums[2] = {};
  for (int step = 0; step < p.block_count; step++) {
    if constexpr (bug == Bug::wait_off_by_one) {
      paro::ptx::cp_async_wait<slots - 1>();
    } else if constexpr (bug != Bug::missing_wait) {
      paro::ptx::cp_async_wait<slots - 2>();
    }
    // sync: everyone's part of this slot has landed, and everyone has left the slot that the
    // next fetch overwrites
    if constexpr (bug != Bug::missing_barrier) __syncthreads();
    if (step + slots - 1 < p.block_count) fetch(step + slots - 1);
    if constexpr (bug != Bug::missing_commit) paro::ptx::cp_async_commit();

    const int used = bug == Bug::stale_slot && step > 0 ? step - 1 : step;
    const uint32_t slot = static_cast<uint32_t>(used % slots) * tile_bytes;
    int32_t score[block_keys / 8][4] = {};
    for (uint32_t k = 0; k < 2; k++) {
      uint32_t a[4], b[4];
      paro::ptx::ldmatrix_x4(a,
                             query_tile + chunk_offset(warp * 16 + lane % 16, 2 * k + lane / 16));
      for (uint32_t n = 0; n < block_keys / 8; n += 2) {
        const uint32_t row = n * 8 + lane % 8 + lane / 16 * 8, chunk = 2 * k + lane / 8 % 2;
        const uint32_t offset = bug == Bug::wrong_swizzle ? row * 64 + ((chunk ^ (row & 3)) << 4)
                                : bug == Bug::bank_offset ? row * 64 + chunk * 16 + 8
                                                          : chunk_offset(row, chunk);
        paro::ptx::ldmatrix_x4(b, key_tiles + slot + offset);
        paro::ptx::mma_s8_s8(score[n], a, {b[0], b[1]});
        paro::ptx::mma_s8_s8(score[n + 1], a, {b[2], b[3]});
      }
    }

    const int existing = p.tokens - p.blocks[used] * block_keys + (bug == Bug::tail_off_by_one);
    uint32_t codes[2][4];
    for (uint32_t group = 0; group < 2; group++) {
      for (uint32_t i = 0; i < 4; i++) {
        uint32_t packed = 0;
        for (uint32_t byte = 0; byte < 4; byte++) {
          const uint32_t n = group * 4 + i / 2 * 2 + byte / 2, c = i % 2 * 2 + byte % 2;
          const int key = static_cast<int>(n * 8 + lane % 4 * 2 + byte % 2);
          if (key < existing) packed |= probability(score[n][c]) << 8 * byte;
        }
        codes[group][i] = packed;
        sums[i % 2] = __dp4a(packed, 0x01010101u, sums[i % 2]);
      }
    }
    for (uint32_t d = 0; d < head_dim / 8; d++) {
      uint32_t b[4];
      paro::ptx::ldmatrix_x4(b, value_tiles + slot + chunk_offset(d * 8 + lane % 8, lane / 8));
      paro::ptx::mma_u8_s8(output[d], codes[0], {b[0], b[1]});
      paro::ptx::mma_u8_s8(output[d], codes[1], {b[2], b[3]});
    }
  }
  paro::ptx::cp_async_wait_all();

  for (uint32_t half = 0; half < 2; half++) {
    uint32_t sum = sums[half];
    const int row = first_row + static_cast<int>(warp * 16 + lane / 4 + half * 8);
    if (bug == Bug::divergent_shuffle && row >= p.query_rows) continue;
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (row >= p.query_rows) continue;
    const int target = bug == Bug::wrong_scatter ? row : p.row_order[row];
    p.row_sum[target] = static_cast<int32_t>(sum);
    for (uint32_t d = 0; d < head_dim / 8; d++) {
      for (uint32_t i = 0; i < 2; i++) {
        p.output[static_cast<uint32_t>(target) * head_dim + d * 8 + lane % 4 * 2 + i] =
            output[d][half * 2 + i];
      }
    }
  }
}

}  // namespace mutants::pipelined
