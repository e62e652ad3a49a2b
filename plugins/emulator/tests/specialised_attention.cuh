// A kernel for sm_90a: a TMA warpgroup feeds a ring that a wgmma warpgroup drains.
// `bug` plants a mistake for the emulator to catch; Bug::none is the kernel as it should be.
#pragma once

#include <cstddef>

#include "emulator/tests/integer_attention.h"
#include "ptx/mbarrier.cuh"
#include "ptx/tma.cuh"
#include "ptx/warp.cuh"
#include "ptx/wgmma.cuh"

namespace mutants::specialised {

enum class Bug {
  none,
  wrong_full_parity,
  wrong_empty_parity,
  no_empty_wait,
  stale_stage,
  early_release,
  missing_wgmma_wait,
  missing_wgmma_fence,
  missing_expect,
  short_expect,
  too_few_arrivals,
  too_many_arrivals,
  wrong_swizzle,
  wrong_map_swizzle,
  missing_init_fence,
  missing_init_barrier,
  tail_off_by_one,
};

constexpr uint32_t stages = 2, threads = 256;
constexpr uint32_t tile_bytes = block_keys * head_dim;

struct SharedTiles {
  uint8_t query[tile_bytes];
  uint8_t key[stages][tile_bytes];
  uint8_t value[stages][tile_bytes];
  uint64_t query_full, full[stages], empty[stages];
};

struct Parameters {
  const int* blocks;
  const int* row_order;
  int32_t* output;
  int32_t* row_sum;
  int block_count, tokens, query_rows;
};

struct Ring {
  uint32_t base;
  __device__ uint32_t query() const { return base + offsetof(SharedTiles, query); }
  __device__ uint32_t key(uint32_t s) const {
    return base + static_cast<uint32_t>(offsetof(SharedTiles, key)) + s * tile_bytes;
  }
  __device__ uint32_t value(uint32_t s) const {
    return base + static_cast<uint32_t>(offsetof(SharedTiles, value)) + s * tile_bytes;
  }
  __device__ uint32_t query_full() const { return base + offsetof(SharedTiles, query_full); }
  __device__ uint32_t full(uint32_t s) const {
    return base + static_cast<uint32_t>(offsetof(SharedTiles, full)) + 8 * s;
  }
  __device__ uint32_t empty(uint32_t s) const {
    return base + static_cast<uint32_t>(offsetof(SharedTiles, empty)) + 8 * s;
  }
};

#if PARO_HAS_WGMMA
template <Bug bug>
__device__ void produce(const Ring& ring, const paro::TensorMap& query, const paro::TensorMap& key,
                        const paro::TensorMap& value, const Parameters& p) {
  const int first_row = static_cast<int>(blockIdx.x) * 64;
  paro::ptx::mbarrier_arrive_expect(ring.query_full(), tile_bytes);
  paro::ptx::tma_load_2d(ring.query(), query, 0, first_row, ring.query_full());
  for (uint32_t step = 0; step < static_cast<uint32_t>(p.block_count); step++) {
    const uint32_t stage = step % stages, parity = step / stages & 1;
    if constexpr (bug != Bug::no_empty_wait) {
      paro::ptx::mbarrier_wait(ring.empty(stage),
                               bug == Bug::wrong_empty_parity ? parity : parity ^ 1);
    }
    if constexpr (bug == Bug::missing_expect) {
      paro::ptx::mbarrier_arrive(ring.full(stage));
    } else {
      paro::ptx::mbarrier_arrive_expect(ring.full(stage),
                                        bug == Bug::short_expect ? tile_bytes : 2 * tile_bytes);
    }
    const int block = p.blocks[step];
    paro::ptx::tma_load_2d(ring.key(stage), key, 0, block * block_keys, ring.full(stage));
    paro::ptx::tma_load_2d(ring.value(stage), value, 0, block * head_dim, ring.full(stage));
  }
}

template <Bug bug>
__device__ void pack_probabilities(const int32_t (&score)[32], int existing,
                                   uint32_t (&codes)[2][4], uint32_t (&sums)[2]) {
  const uint32_t lane = threadIdx.x % 32;
  for (uint32_t group = 0; group < 2; group++) {
    for (uint32_t i = 0; i < 4; i++) {
      uint32_t packed = 0;
      for (uint32_t byte = 0; byte < 4; byte++) {
        const uint32_t n = group * 4 + i / 2 * 2 + byte / 2;
        const int key = static_cast<int>(n * 8 + lane % 4 * 2 + byte % 2);
        const bool exists = key < existing + (bug == Bug::tail_off_by_one);
        if (exists) packed |= probability(score[n * 4 + i % 2 * 2 + byte % 2]) << 8 * byte;
      }
      codes[group][i] = packed;
      sums[i % 2] = __dp4a(packed, 0x01010101u, sums[i % 2]);
    }
  }
}

template <Bug bug>
__device__ void consume(const Ring& ring, const Parameters& p) {
  constexpr paro::Swizzle pattern =
      bug == Bug::wrong_swizzle ? paro::Swizzle::b32 : paro::Swizzle::b64;
  int32_t output[head_dim / 2] = {}, score[block_keys / 2];
  uint32_t sums[2] = {};
  paro::ptx::mbarrier_wait(ring.query_full(), 0);
  for (uint32_t step = 0; step < static_cast<uint32_t>(p.block_count); step++) {
    const uint32_t stage = step % stages, parity = step / stages & 1;
    const uint32_t used = bug == Bug::stale_stage ? (step + 1) % stages : stage;
    paro::ptx::mbarrier_wait(ring.full(stage), bug == Bug::wrong_full_parity ? parity ^ 1 : parity);
    const uint64_t a = paro::ptx::wgmma_descriptor(ring.query(), paro::Swizzle::b64);
    const uint64_t b = paro::ptx::wgmma_descriptor(ring.key(used), pattern, 512);
    const uint64_t v = paro::ptx::wgmma_descriptor(ring.value(used), paro::Swizzle::b64);
    if constexpr (bug != Bug::missing_wgmma_fence) paro::ptx::wgmma_fence();
    for (uint32_t k = 0; k < 2; k++) paro::ptx::wgmma_s8_s8<64>(score, a + 2 * k, b + 2 * k, k > 0);
    paro::ptx::wgmma_commit();
    if constexpr (bug == Bug::missing_wgmma_wait) {
      paro::ptx::wgmma_wait<1>();
    } else {
      paro::ptx::wgmma_wait<0>();
    }
    uint32_t codes[2][4];
    pack_probabilities<bug>(score, p.tokens - p.blocks[step] * block_keys, codes, sums);
    paro::ptx::wgmma_fence();
    for (uint32_t k = 0; k < 2; k++) paro::ptx::wgmma_u8_s8<64>(output, codes[k], v + 2 * k, true);
    paro::ptx::wgmma_commit();
    if constexpr (bug == Bug::early_release) paro::ptx::mbarrier_arrive(ring.empty(stage));
    paro::ptx::wgmma_wait<0>();
    const bool arrives = bug != Bug::too_few_arrivals || threadIdx.x % 32 < 31;
    if (bug != Bug::early_release && arrives) paro::ptx::mbarrier_arrive(ring.empty(stage));
  }
  for (uint32_t half = 0; half < 2; half++) {
    const uint32_t in_tile = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + half * 8;
    const int row = static_cast<int>(blockIdx.x * 64 + in_tile);
    uint32_t sum = sums[half];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (row >= p.query_rows) continue;
    const auto target = static_cast<uint32_t>(p.row_order[row]);
    p.row_sum[target] = static_cast<int32_t>(sum);
    for (uint32_t i = 0; i < head_dim / 4; i++) {
      p.output[target * head_dim + i / 2 * 8 + threadIdx.x % 4 * 2 + i % 2] =
          output[i / 2 * 4 + half * 2 + i % 2];
    }
  }
}

#endif  // PARO_HAS_WGMMA

template <Bug bug>
__global__ void __launch_bounds__(threads, 1)
    specialised_attention(const __grid_constant__ paro::TensorMap query,
                          const __grid_constant__ paro::TensorMap key,
                          const __grid_constant__ paro::TensorMap value, Parameters p) {
#if PARO_HAS_WGMMA
  DYN_SMEM(shared);
  const Ring ring{paro::ptx::shared_u32(shared)};
  constexpr uint32_t releases = bug == Bug::too_many_arrivals ? 64 : 128;
  if (threadIdx.x == 128) {
    paro::ptx::mbarrier_init(ring.query_full(), 1);
    for (uint32_t stage = 0; stage < stages; stage++) {
      paro::ptx::mbarrier_init(ring.full(stage), 1);
      paro::ptx::mbarrier_init(ring.empty(stage), releases);
    }
    if constexpr (bug != Bug::missing_init_fence) paro::ptx::fence_mbarrier_init();
  }
  // sync: the barriers are initialised
  if constexpr (bug != Bug::missing_init_barrier) __syncthreads();
  if (threadIdx.x >= 128) {
    paro::ptx::registers_decrease<40>();
    if (threadIdx.x == 128) produce<bug>(ring, query, key, value, p);
  } else {
    consume<bug>(ring, p);
  }
#endif
}

}  // namespace mutants::specialised
