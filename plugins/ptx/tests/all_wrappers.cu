// Instantiates every wrapper, to be compiled by nvcc for every target: a typing error in an asm
// string shows only here. Never run.
#include "ptx/cache_policy.cuh"
#include "ptx/convert.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/launch.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/mma.cuh"
#include "ptx/tma.cuh"
#include "ptx/warp.cuh"
#include "ptx/wgmma.cuh"

using namespace paro;

__global__ void ampere(const uint4* in, uint32_t* out, float x, int barrier_id) {
  DYN_SMEM(shared);
  const uint32_t base = ptx::shared_u32(shared), lane = threadIdx.x;
  ptx::cp_async_16(base + lane * 16, in + lane, lane != 3);
  ptx::cp_async_16_with_policy(base + lane * 16, in + lane, lane != 3, ptx::evict_first_policy());
  ptx::cp_async_small<4>(base + 1024 + lane * 4, in + lane);
  ptx::cp_async_small<8>(base + 2048 + lane * 8, in + lane, lane != 5);
  ptx::cp_async_commit();
  ptx::cp_async_wait<1>();
  ptx::cp_async_wait_all();
  const uint64_t policy = ptx::evict_first_policy();
  ptx::store_with_policy(out + 4 * lane, ptx::load_with_policy(in + lane, policy), policy);
  ptx::named_barrier_sync(barrier_id, 64);
  ptx::named_barrier_arrive(2, 64);
  ptx::mbarrier_init(base + 4096, 32);
  ptx::mbarrier_arrive(base + 4096);
  ptx::mbarrier_wait(base + 4096, 0);
  uint32_t a[4], t[4];
  ptx::ldmatrix_x4(a, base + lane * 16);
  ptx::ldmatrix_x4_trans(t, base + lane * 16);
  const uint32_t b[2] = {a[2], a[3]}, u[2] = {t[2], t[3]};
  int32_t c[4] = {};
  float f[4] = {};
  ptx::mma_s8_s8(c, a, b);
  ptx::mma_u8_s8(c, t, u);
  ptx::mma_s4_s4(c, a, b);
  ptx::mma_u4_s4(c, t, u);
  ptx::mma_f16(f, a, b);
  ptx::mma_bf16(f, t, u);
  int32_t d[4], held[4];
  float h[4];
  ptx::hold(held, c[3]);
  ptx::mma_s8_s8_from(held, d, a, b);
  ptx::mma_u8_s8_from(d, c, t, u);
  ptx::mma_s4_s4_from(c, d, a, b);
  ptx::mma_u4_s4_from(d, c, t, u);
  ptx::mma_f16_from(f, h, a, b);
  ptx::mma_bf16_from(h, f, t, u);
  const float y = ptx::exp2_approx(ptx::maximum_or_nan(x, f[0])) + ptx::float_from_biased(ptx::biased_zero + c[0]);
  const ptx::BytePair p = ptx::unpack_s4_times_16(a[0]);
  out[lane] = ptx::pack_u8x4(x, y, f[0], f[1]) ^ ptx::pack_s8x4(x, y, f[2], f[3]) ^
              ptx::pack_u8x4_in_range(x, y, f[0], ptx::log2_approx(x)) ^
              ptx::pack_u8x4_in_range(x, y, f[0], f[1], f[2]) ^
              ptx::pack_lowest_bytes(x, y, f[0], f[1]) ^ ptx::computed_here(a[1]) ^
              ptx::permute_bytes(p.low, a[1], 0xBA98) ^
              ptx::pack_f16x2(x, y) ^ ptx::pack_bf16x2(x, y) ^ p.low ^ p.high ^
              static_cast<uint32_t>(c[1] ^ c[2] ^ c[3]);
}

__global__ void hopper_copies(uint32_t* out) {
#if PARO_HAS_TMA
  DYN_SMEM(shared);
  const uint32_t base = ptx::shared_u32(shared), barrier = base + 8192;
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(barrier, 1);
    ptx::fence_mbarrier_init();
    ptx::mbarrier_arrive_expect(barrier, 64);
    ptx::bulk_load(base + 8256, out + 16, 64, barrier);
    ptx::mbarrier_wait(barrier, 0);
    out[0] = shared[1];
    ptx::fence_proxy_async();
  }
#endif
}

template <int N>
__global__ void __launch_bounds__(384, 1) hopper_products(int32_t* out, const uint32_t* in) {
#if PARO_HAS_WGMMA
  DYN_SMEM(shared);
  const uint32_t base = ptx::shared_u32(shared);
  if (threadIdx.x < 128) {
    ptx::registers_decrease<40>();
    return;
  }
  ptx::registers_increase<232>();
  const uint64_t a = ptx::wgmma_descriptor(base, Swizzle::b128);
  const uint64_t b = ptx::wgmma_descriptor(base + 16384, Swizzle::none, 256, 128);
  const uint32_t fragment[4] = {in[threadIdx.x], in[1], in[2], in[3]};
  int32_t d[N / 2];
  ptx::wgmma_fence();
  ptx::wgmma_s8_s8<N>(d, a, b, false);
  ptx::wgmma_s8_s8<N>(d, fragment, b, true);
  ptx::wgmma_u8_s8<N>(d, fragment, ptx::wgmma_advance(b, 32), true);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  ptx::wgmma_settle(d);
  for (int i = 0; i < N / 2; i++) out[threadIdx.x * (N / 2) + i] = d[i];
#endif
}

template __global__ void hopper_products<64>(int32_t*, const uint32_t*);
template __global__ void hopper_products<128>(int32_t*, const uint32_t*);
template __global__ void hopper_products<256>(int32_t*, const uint32_t*);

LaunchStatus launch_all(const uint4* in, uint32_t* out, Stream stream) {
  DeviceSet none;
  if (allow_all_shared_bytes(hopper_copies, none) != LaunchStatus::ok) return LaunchStatus::failed;
  launch(hopper_copies, {1, 32, 100000, stream}, out);
  return launch(ampere, {dim3(1), dim3(64), 8192, stream}, in, out, 1.0f, 1);
}
