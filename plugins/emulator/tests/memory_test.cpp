// Tests dynamic shared memory, cp.async and ldmatrix.
#include "emulator/tests/check.h"
#include "ptx/cp_async.cuh"
#include "ptx/ldmatrix.cuh"

using namespace paro;

namespace {

// Copies rows of 16, 8 and 4 bytes; every third 16-byte chunk is zero-filled.
__global__ void copy_rows(const uint8_t* in, uint8_t* out) {
  DYN_SMEM(shared);
  const uint32_t base = ptx::shared_u32(shared), thread = threadIdx.x;
  ptx::cp_async_16(base + thread * 16, in + thread * 16, thread % 3 != 0);
  ptx::cp_async_commit();
  ptx::cp_async_small<8>(base + 512 + thread * 8, in + 512 + thread * 8);
  ptx::cp_async_commit();
  ptx::cp_async_small<4>(base + 768 + thread * 4, in + 768 + thread * 4);
  ptx::cp_async_wait<1>();
  for (uint32_t i = 0; i < 16; i++) out[thread * 16 + i] = shared[thread * 16 + i];
  ptx::cp_async_wait_all();  // the last copy was never committed
  for (uint32_t i = 0; i < 8; i++) out[512 + thread * 8 + i] = shared[512 + thread * 8 + i];
  for (uint32_t i = 0; i < 4; i++) out[768 + thread * 4 + i] = shared[768 + thread * 4 + i];
}

TEST(cp_async_copies_and_zero_fills) {
  check::in_every_mode([](const std::string& mode) {
    alignas(16) uint8_t in[896];
    for (uint8_t& byte : in) byte = static_cast<uint8_t>(check::random_word());
    std::vector<uint8_t> out(896);
    CHECK_RUNS(copy_rows, {1, 32, 896}, static_cast<const uint8_t*>(in), out.data());
    for (size_t i = 0; i < 896; i++) {
      CHECK_MESSAGE(out[i] == (i < 512 && i / 16 % 3 == 0 ? 0 : in[i]), mode);
    }
  });
}

// Whether the second-newest of three groups has arrived after wait<Allowed>.
template <int Allowed>
__global__ void groups_in_flight(const uint4* in, uint32_t* out) {
  DYN_SMEM(shared);
  const uint32_t base = ptx::shared_u32(shared);
  for (uint32_t group = 0; group < 3; group++) {
    ptx::cp_async_16(base + (group * 32 + threadIdx.x) * 16, in + group * 32 + threadIdx.x);
    ptx::cp_async_commit();
  }
  ptx::cp_async_wait<Allowed>();
  for (uint32_t group = 0; group < 3; group++) {
    std::memcpy(&out[group * 32 + threadIdx.x], shared + (group * 32 + threadIdx.x) * 16, 4);
  }
  ptx::cp_async_wait<0>();
}

TEST(late_copies_land_with_their_group) {
  const check::ScopedOptions restore;
  emulator::options().late = true;
  std::vector<uint4> in(96);
  for (size_t i = 0; i < 96; i++) in[i] = {static_cast<unsigned>(i), 0, 0, 0};
  std::vector<uint32_t> out(96);
  const auto landed = [&](size_t group) {
    for (size_t i = group * 32; i < group * 32 + 32; i++) {
      if (out[i] != i) return false;
    }
    return true;
  };
  CHECK_RUNS(groups_in_flight<1>, {1, 32, 1536}, in.data(), out.data());
  CHECK(landed(0) && landed(1) && !landed(2) && out[64] == 0xCBCBCBCB);
  CHECK_RUNS(groups_in_flight<2>, {1, 32, 1536}, in.data(), out.data());
  CHECK(landed(0) && !landed(1) && !landed(2));
}

template <bool Transpose>
__global__ void load_fragments(const uint4* in, const uint32_t* chunk_of_lane, uint32_t* out) {
  DYN_SMEM(shared);
  for (uint32_t i = 0; i < 4; i++) {
    std::memcpy(shared + (i * 32 + threadIdx.x) * 16, &in[i * 32 + threadIdx.x], 16);
  }
  __syncthreads();  // sync: all rows are written
  const uint32_t address = ptx::shared_u32(shared) + chunk_of_lane[threadIdx.x] * 16;
  uint32_t four[4];
  if constexpr (Transpose) {
    ptx::ldmatrix_x4_trans(four, address);
  } else {
    ptx::ldmatrix_x4(four, address);
  }
  for (uint32_t i = 0; i < 4; i++) out[threadIdx.x * 4 + i] = four[i];
}

template <bool Transpose>
void check_fragments(const std::vector<uint32_t>& chunks, const std::string& mode) {
  std::vector<uint4> in(128);
  for (uint4& row : in) {
    row = {check::random_word(), check::random_word(), check::random_word(), check::random_word()};
  }
  std::vector<uint32_t> out(32 * 4);
  CHECK_RUNS(load_fragments<Transpose>, {1, 32, 2048}, in.data(), chunks.data(), out.data());
  const auto element = [&](size_t matrix, size_t row, size_t column) {
    uint16_t values[8];
    std::memcpy(values, &in[chunks[matrix * 8 + row]], 16);
    return values[column];
  };
  for (size_t lane = 0; lane < 32; lane++) {
    for (size_t i = 0; i < 4; i++) {
      const size_t matrix = i, row = lane / 4, column = lane % 4 * 2;
      const uint16_t low = Transpose ? element(matrix, column, row) : element(matrix, row, column);
      const uint16_t high =
          Transpose ? element(matrix, column + 1, row) : element(matrix, row, column + 1);
      CHECK_MESSAGE(out[lane * 4 + i] == (low | static_cast<uint32_t>(high) << 16), mode);
    }
  }
}

TEST(ldmatrix_matches_its_definition) {
  check::in_every_mode([](const std::string& mode) {
    const auto chunks = check::random_integers<uint32_t>(32, 0, 127);
    check_fragments<false>(chunks, mode);
    check_fragments<true>(chunks, mode);
  });
}

TEST(ldmatrix_conflicts_are_counted) {
  std::vector<uint32_t> distinct(32), same(32);
  for (uint32_t lane = 0; lane < 32; lane++) {
    distinct[lane] = lane;
    same[lane] = lane % 16 * 8;  // rows of 128 bytes: all in one bank group
  }
  emulator::reset_stats();
  check_fragments<false>(distinct, "distinct");
  CHECK(emulator::stats().ldmatrix == 1 && emulator::stats().ldmatrix_conflicts == 0);
  emulator::reset_stats();
  check_fragments<false>(same, "same");
  CHECK(emulator::stats().ldmatrix_conflicts == 4 * 7);
}

// ---- misuse ----

__global__ void copy_to(const uint8_t* in, uint32_t offset) {
  DYN_SMEM(shared);
  ptx::cp_async_16(ptx::shared_u32(shared) + offset, in);
  ptx::cp_async_wait_all();
}

__global__ void copy_to_window_address(const uint8_t* in, uint32_t address) {
  ptx::cp_async_16(address, in);
  ptx::cp_async_wait_all();
}

__global__ void copy_without_wait(const uint8_t* in) {
  DYN_SMEM(shared);
  ptx::cp_async_16(ptx::shared_u32(shared) + threadIdx.x * 16, in);
  ptx::cp_async_commit();
}

__global__ void load_one_bad_row(int* sink) {
  DYN_SMEM(shared);
  uint32_t r[4];
  ptx::ldmatrix_x4(r, ptx::shared_u32(shared) + (threadIdx.x == 21 ? 512u : threadIdx.x * 16u));
  *sink = static_cast<int>(r[0]);
}

__global__ void host_pointer_as_shared(int* sink) {
  *sink = static_cast<int>(ptx::shared_u32(sink));
}

TEST(shared_memory_misuse_is_diagnosed) {
  alignas(16) uint8_t in[64] = {};
  const uint8_t* aligned = in;
  int sink = 0;
  CHECK_FAULT(shared_memory, "outside", copy_to, {1, 32, 512}, aligned, 512u);
  CHECK_FAULT(shared_memory, "outside", copy_to, {1, 32, 512}, aligned, 0x80000000u);
  CHECK_FAULT(shared_memory, "outside", copy_to_window_address, {1, 32, 512}, aligned, 0u);
  CHECK_FAULT(shared_memory, "misaligned", copy_to, {1, 32, 512}, aligned, 8u);
  CHECK_FAULT(global_alignment, "cp.async", copy_to, {1, 32, 512}, aligned + 8, 0u);
  CHECK_FAULT(pending_at_exit, "cp.async", copy_without_wait, {1, 32, 512}, aligned);
  CHECK_FAULT(shared_memory, "lane 21", load_one_bad_row, {1, 32, 512}, &sink);
  CHECK_FAULT(shared_memory, "not into shared", host_pointer_as_shared, {1, 32, 512}, &sink);
}

#if !defined(__SANITIZE_ADDRESS__)  // AddressSanitizer stops the process at the store itself
__global__ void store_past_the_end() {
  DYN_SMEM(shared);
  shared[512 + threadIdx.x] = 1;
}

TEST(stores_past_shared_memory_are_diagnosed) {
  CHECK_FAULT(shared_memory, "beyond", store_past_the_end, {1, 32, 512});
}
#endif

}  // namespace
