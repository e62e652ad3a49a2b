// One kernel for each group of instructions. Inputs are random, and outputs are compared word by
// word.
#pragma once

#include "ptx/cache_policy.cuh"
#include "ptx/convert.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/mma.cuh"
#include "ptx/tma.cuh"
#include "ptx/warp.cuh"
#include "ptx/wgmma.cuh"

namespace conformance {

using namespace paro;

constexpr unsigned mma_inputs = 10, mma_integers = 16, mma_floats = 8;

// Reads 32 lanes x 10 words: A, B and an integer C. 16-bit floats are brought close to 1.
__global__ void matrix_products(const uint32_t* in, int32_t* integers, float* floats) {
  const uint32_t* mine = in + threadIdx.x * mma_inputs;
  const uint32_t a[4] = {mine[0], mine[1], mine[2], mine[3]}, b[2] = {mine[4], mine[5]};
  int32_t c[4][4];
  float f[2][4];
  for (int i = 0; i < 4; i++) {
    for (int kind = 0; kind < 4; kind++) c[kind][i] = static_cast<int32_t>(mine[6 + i] >> 8);
    f[0][i] = f[1][i] = static_cast<float>(i) * 0.5f;
  }
  ptx::mma_s8_s8(c[0], a, b);
  ptx::mma_u8_s8(c[1], a, b);
  ptx::mma_s4_s4(c[2], a, b);
  ptx::mma_u4_s4(c[3], a, b);
  uint32_t half_a[4], half_b[2], bfloat_a[4], bfloat_b[2];
  for (int i = 0; i < 4; i++) {
    half_a[i] = (a[i] & 0x83FF83FFu) | 0x3C003C00u;
    bfloat_a[i] = (a[i] & 0x807F807Fu) | 0x3F803F80u;
  }
  for (int i = 0; i < 2; i++) {
    half_b[i] = (b[i] & 0x83FF83FFu) | 0x3C003C00u;
    bfloat_b[i] = (b[i] & 0x807F807Fu) | 0x3F803F80u;
  }
  ptx::mma_f16(f[0], half_a, half_b);
  ptx::mma_bf16(f[1], bfloat_a, bfloat_b);
  for (int i = 0; i < 16; i++) integers[threadIdx.x * mma_integers + i] = c[i / 4][i % 4];
  for (int i = 0; i < 8; i++) floats[threadIdx.x * mma_floats + i] = f[i / 4][i % 4];
}

// Products that start from a register tile: C = A B + start, with `start` opaque or computed.
__global__ void started_products(const uint32_t* in, int32_t* integers, float* floats) {
  const uint32_t* mine = in + threadIdx.x * mma_inputs;
  const uint32_t a[4] = {mine[0], mine[1], mine[2], mine[3]}, b[2] = {mine[4], mine[5]};
  int32_t biased[4], start[4], c[4][4];
  ptx::hold(biased, ptx::biased_zero);
  float halves[4], f[2][4];
  for (int i = 0; i < 4; i++) {
    start[i] = static_cast<int32_t>(mine[6 + i] >> 8);
    halves[i] = static_cast<float>(i) * 0.5f - 1.0f;
  }
  ptx::mma_s8_s8_from(biased, c[0], a, b);
  ptx::mma_u8_s8_from(start, c[1], a, b);
  ptx::mma_s4_s4_from(biased, c[2], a, b);
  ptx::mma_u4_s4_from(start, c[3], a, b);
  const auto half = [](uint32_t bits) { return (bits & 0x83FF83FFu) | 0x3C003C00u; };
  const auto bfloat = [](uint32_t bits) { return (bits & 0x807F807Fu) | 0x3F803F80u; };
  const uint32_t half_a[4] = {half(a[0]), half(a[1]), half(a[2]), half(a[3])};
  const uint32_t bfloat_a[4] = {bfloat(a[0]), bfloat(a[1]), bfloat(a[2]), bfloat(a[3])};
  const uint32_t half_b[2] = {half(b[0]), half(b[1])}, bfloat_b[2] = {bfloat(b[0]), bfloat(b[1])};
  ptx::mma_f16_from(halves, f[0], half_a, half_b);
  ptx::mma_bf16_from(halves, f[1], bfloat_a, bfloat_b);
  for (int i = 0; i < 16; i++) integers[threadIdx.x * mma_integers + i] = c[i / 4][i % 4];
  for (int i = 0; i < 8; i++) floats[threadIdx.x * mma_floats + i] = f[i / 4][i % 4];
}

// Copies with a cache policy, which is only a hint.
__global__ void copies_with_policy(const uint4* in, uint32_t* out) {
  const uint64_t policy = ptx::evict_first_policy();
  ptx::store_with_policy(out + threadIdx.x * 4, ptx::load_with_policy(in + threadIdx.x, policy),
                         policy);
}

constexpr unsigned load_words = 4 * 8 + 3;

// cp.async with zero fill, then each form of ldmatrix from swizzled rows of 128 bytes.
__global__ void shared_loads(const uint4* in, uint32_t* out) {
  DYN_SMEM(shared);
  const uint32_t base = ptx::shared_u32(shared), lane = threadIdx.x;
  const uint64_t policy = ptx::evict_first_policy();
  for (uint32_t i = lane; i < 256; i += 32) {
    const uint32_t to = base + i * 16;
    if (i < 128) ptx::cp_async_16(to, in + i, i % 7 != 0);
    if (i >= 128) ptx::cp_async_16_with_policy(to, in + i, i % 7 != 0, policy);
  }
  ptx::cp_async_commit();
  ptx::cp_async_small<8>(base + 4096 + lane * 8, in + lane, lane % 5 != 0);
  ptx::cp_async_small<4>(base + 4352 + lane * 4, in + lane);
  ptx::cp_async_wait_all();
  __syncthreads();  // sync: all copies have landed
  uint32_t* mine = out + lane * load_words;
  const uint32_t row = lane % 16;
  for (uint32_t k = 0; k < 4; k++) {
    const uint32_t chunk = 2 * k + lane / 16, address = base + row * 128 + ((chunk ^ row % 8) << 4);
    uint32_t x4[4], x4_trans[4];
    ptx::ldmatrix_x4(x4, address);
    ptx::ldmatrix_x4_trans(x4_trans, address);
    for (uint32_t i = 0; i < 4; i++) mine[k * 8 + i] = x4[i];
    for (uint32_t i = 0; i < 4; i++) mine[k * 8 + 4 + i] = x4_trans[i];
  }
  const auto* words = reinterpret_cast<const uint32_t*>(shared);
  mine[32] = words[1024 + lane * 2];
  mine[33] = words[1024 + lane * 2 + 1];
  mine[34] = words[1088 + lane];
}

constexpr unsigned scalar_inputs = 4, scalar_words = 14;

// Conversions, packing, shuffles and votes. exp2 and log2 are compared with a tolerance.
__global__ void scalars(const float* in, uint32_t* words, float* powers, float* logarithms) {
  const float* x = in + threadIdx.x * scalar_inputs;
  uint32_t* mine = words + threadIdx.x * scalar_words;
  const uint32_t bytes = ptx::pack_u8x4(x[0], x[1], x[2], x[3]);
  const ptx::BytePair unpacked = ptx::unpack_s4_times_16(bytes);
  mine[0] = ptx::computed_here(bytes);
  mine[1] = ptx::pack_s8x4(x[0], x[1], x[2], x[3]);
  mine[2] = ptx::pack_f16x2(x[0], x[1]);
  mine[3] = ptx::pack_bf16x2(x[2], x[3]);
  mine[4] = unpacked.low;
  mine[5] = unpacked.high;
  mine[6] = __dp4a(bytes, 0x01010101u, 7u);
  mine[7] = __float_as_uint(__shfl_xor_sync(~0u, x[0], 5) + __shfl_sync(~0u, x[1], 3));
  mine[8] = __ballot_sync(~0u, x[0] > 50.0f);
  mine[9] = static_cast<uint32_t>(__any_sync(~0u, x[1] > 254.0f) != 0);
  mine[10] = static_cast<uint32_t>(__reduce_max_sync(~0u, static_cast<int>(bytes & 0xFFFFu)));
  mine[11] = __float_as_uint(
      ptx::float_from_biased(ptx::biased_zero + static_cast<int32_t>(bytes & 0xFFFFu) - 9000));
  const auto in_range = [](float value) { return fminf(fabsf(value), 255.0f); };
  mine[12] = ptx::pack_u8x4_in_range(in_range(x[0]), in_range(x[1]), in_range(x[2]), in_range(x[3]));
  // Nibbles of the selector at and above 8 spread a sign.
  mine[13] = ptx::permute_bytes(mine[1], bytes, mine[4]) ^
             ptx::pack_lowest_bytes(x[0], x[1], x[2], x[3]);
  powers[threadIdx.x] = ptx::exp2_approx(-fabsf(x[0]) * 0.25f);
  logarithms[threadIdx.x] = ptx::log2_approx(1.0f + in_range(x[1]));
}

constexpr unsigned special_words = 3;

// Packing and maxima of a NaN, an infinity or a number in each place.
__global__ void special_values(const float* in, uint32_t* words) {
  const float* x = in + threadIdx.x * scalar_inputs;
  uint32_t* mine = words + threadIdx.x * special_words;
  mine[0] = ptx::pack_u8x4(x[0], x[1], x[2], x[3]);
  mine[1] = ptx::pack_s8x4(x[0], x[1], x[2], x[3]);
  const float largest = ptx::maximum_or_nan(ptx::maximum_or_nan(x[0], x[1]), x[2]);
  mine[2] = largest != largest ? 0x7FC00000u : __float_as_uint(largest);
}

// Copies plain bytes in bulk, in three phases. Each phase has two barriers: for the arrival of the
// bytes, and for the end of all reads.
__global__ void bulk_copies(const uint8_t* from, uint32_t bytes, uint32_t* image) {
#if PARO_HAS_TMA
  DYN_SMEM(shared);
  const uint32_t tile = ptx::shared_u32(shared), full = tile + bytes, empty = full + 8;
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(full, 1);
    ptx::mbarrier_init(empty, blockDim.x);
    ptx::fence_mbarrier_init();
  }
  __syncthreads();  // sync: the barriers are initialised
  for (uint32_t phase = 0; phase < 3; phase++) {
    if (threadIdx.x == 0) {
      ptx::mbarrier_wait(empty, ~phase & 1);
      ptx::fence_proxy_async();
      ptx::mbarrier_arrive_expect(full, bytes);
      ptx::bulk_load(tile, from + phase * bytes, bytes, full);
    }
    ptx::mbarrier_wait(full, phase & 1);
    const auto* words = reinterpret_cast<const uint32_t*>(shared);
    for (uint32_t i = threadIdx.x; i < bytes / 4; i += blockDim.x) {
      image[phase * bytes / 4 + i] = words[i];
    }
    ptx::mbarrier_arrive(empty);
  }
#endif
}

// s8 x s8 from shared memory; s8 x s8 and u8 x s8 with A in registers.
enum class ProductForm { shared, signed_registers, unsigned_registers };

// One product, 64 x N, as deep as one row of the swizzle pattern, from tiles with dense rows. It is
// added to the content of `out`, except for unsigned A.
template <int N, ProductForm form, Swizzle swizzle>
__global__ void __launch_bounds__(128, 1)
    warpgroup_product(const uint8_t* a, const uint8_t* b, int32_t* out) {
#if PARO_HAS_WGMMA
  DYN_SMEM(shared);
  constexpr uint32_t pattern = static_cast<uint32_t>(swizzle), depth = 16u << pattern;
  const uint32_t thread = threadIdx.x, base = ptx::shared_u32(shared);
  const auto place = [](uint32_t row, uint32_t byte) {
    const uint32_t moved = row >> (3 - pattern) & (depth / 16 - 1);
    return row * depth + ((byte / 16 ^ moved) << 4) + byte % 16;
  };
  const auto fill = [&](uint8_t* tile, const uint8_t* from, uint32_t rows) {
    for (uint32_t i = thread; i < rows * depth; i += 128) tile[place(i / depth, i % depth)] = from[i];
  };
  fill(shared, a, 64);
  fill(shared + 64 * depth, b, N);
  ptx::fence_proxy_async();
  __syncthreads();  // sync: both tiles are written
  const uint64_t a_tile = ptx::wgmma_descriptor(base, swizzle);
  const uint64_t b_tile = ptx::wgmma_descriptor(base + 64 * depth, swizzle);
  uint32_t fragment[depth / 32][4];
  for (uint32_t i = 0; i < depth / 8; i++) {
    const uint32_t row = thread / 32 * 16 + thread % 32 / 4 + i % 2 * 8;
    const uint8_t* bytes = a + row * depth + i / 4 * 32 + i / 2 % 2 * 16 + thread % 4 * 4;
    fragment[i / 4][i % 4] = *reinterpret_cast<const uint32_t*>(bytes);
  }
  int32_t d[N / 2];
  for (uint32_t i = 0; i < N / 2; i++) d[i] = out[thread * (N / 2) + i];
  ptx::wgmma_fence();
  for (uint32_t k = 0; k < depth / 32; k++) {
    if constexpr (form == ProductForm::shared) {
      ptx::wgmma_s8_s8<N>(d, ptx::wgmma_advance(a_tile, 32 * k),
                          ptx::wgmma_advance(b_tile, 32 * k), true);
    } else if constexpr (form == ProductForm::signed_registers) {
      ptx::wgmma_s8_s8<N>(d, fragment[k], ptx::wgmma_advance(b_tile, 32 * k), true);
    } else {
      ptx::wgmma_u8_s8<N>(d, fragment[k], ptx::wgmma_advance(b_tile, 32 * k), k > 0);
    }
  }
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  ptx::wgmma_settle(d);
  for (uint32_t i = 0; i < N / 2; i++) out[thread * (N / 2) + i] = d[i];
#endif
}

// setmaxnreg and named barriers among three warpgroups.
__global__ void __launch_bounds__(384, 1) warpgroup_roles(uint32_t* out) {
#if PARO_HAS_WGMMA
  DYN_SMEM(shared);
  auto* words = reinterpret_cast<uint32_t*>(shared);
  const uint32_t group = threadIdx.x / 128, thread = threadIdx.x % 128;
  if (group == 0) {
    ptx::registers_decrease<40>();
    words[thread] = thread * thread;
    ptx::named_barrier_arrive(1, 256);
    ptx::named_barrier_arrive(2, 256);
  } else {
    ptx::registers_increase<232>();
    // sync: group 0 has written; one barrier for each group that reads
    ptx::named_barrier_sync(static_cast<int>(group), 256);
    out[threadIdx.x] = words[thread ^ 5];
  }
#endif
}

}  // namespace conformance
