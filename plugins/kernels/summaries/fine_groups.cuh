// Stage 1's addition for fine summaries: four means of keys and of values for each key block, with
// a scale of their own.
//
// Grid: x key block, y unit, z 0 for keys and 1 for values.
#pragma once

#include "kernels/summaries/gather.cuh"

namespace paro::kernels::summaries {

template <int D, int BlockK>
struct FineMemory {
  RawRows<D, BlockK> rows;
  float means[paro::kernels::fine_summaries][D];
  uint32_t warp_magnitude[threads / 32];
};

template <bool IsBfloat16, int D, int BlockK>
__global__ void __launch_bounds__(threads) make_fine_groups(const FineParams p) {
  constexpr int run = BlockK / fine_summaries, elements = fine_summaries * D;
  DYN_SMEM(memory);
  auto& shared = *reinterpret_cast<FineMemory<D, BlockK>*>(memory);
  const Geometry& g = p.geometry;
  const bool is_key = blockIdx.z == 0;
  const Unit unit = unit_at(g, static_cast<int>(blockIdx.y));
  const int block = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const int length = length_of(g, p.plan, unit.sample);
  const int32_t* order = order_of(g, p.plan, unit.kv_head * (g.heads / g.kv_heads));
  const Number number = is_key ? p.key_number : p.value_number;
  const float* shifts = affine_row(g, p.plan, is_key ? PARO_KEY_MEAN : PARO_VALUE_MEAN,
                                   unit.kv_head, D);
  const float* divisors = affine_row(g, p.plan, is_key ? PARO_EQUALIZER : PARO_VALUE_SCALE,
                                     unit.kv_head, D);
  gather_rows<D, BlockK>(g, is_key ? p.key : p.value, g.kv_heads, unit.kv_head, unit.sample, order,
                         block * BlockK, length, shared.rows);
  __syncthreads();  // sync: the block's tokens are in shared memory
  uint32_t largest = 0;
  for (int i = thread; i < elements; i += threads) {
    const int summary = i / D, channel = i % D, first = summary * run;
    const int count = tokens_of_run(length, block * BlockK + first, run);
    const float shift = __ldg(shifts + channel), factor = __frcp_rn(__ldg(divisors + channel));
    const float sum = halved_sum<run>(
        [&](int row) {
          const float x = float_from_16bit(shared.rows.row[first + row][channel], IsBfloat16);
          // The affine moves zeros, and absent tokens must not enter a mean.
          return is_integer(number) && row < count ? (x - shift) * factor : x;
        },
        0);
    const float mean = mean_of(sum, count);
    shared.means[summary][channel] = mean;
    largest = max(largest, magnitude_bits(mean));
  }
  largest = __reduce_max_sync(~0u, largest);
  if (thread % 32 == 0) shared.warp_magnitude[thread / 32] = largest;
  __syncthreads();  // sync: the means and every warp's maximum are written
  for (int warp = 0; warp < threads / 32; warp++) {
    largest = max(largest, shared.warp_magnitude[warp]);
  }
  const int64_t group = static_cast<int64_t>(unit.index) * g.key_blocks + block;
  uint8_t* target = (is_key ? p.fine.key : p.fine.value) + group * elements * bits_of(number) / 8;
  if (!is_integer(number)) {
    for (int i = thread; i < elements; i += threads) {
      reinterpret_cast<uint16_t*>(target)[i] =
          float_to_16bit(shared.means[i / D][i % D], IsBfloat16);
    }
    return;
  }
  const Scale scale = scale_of(largest, levels_of(number));
  if (thread == 0) (is_key ? p.fine.key_scale : p.fine.value_scale)[group] = scale.scale;
  const auto code = [&](int summary, int channel) {
    return shared.means[summary][channel] * scale.inverse;
  };
  if (!is_key) {  // transposed: the four summaries of a channel are a word
    for (int i = thread; i < D; i += threads) {
      reinterpret_cast<uint32_t*>(target)[i] =
          ptx::pack_s8x4(code(0, i), code(1, i), code(2, i), code(3, i));
    }
  } else if (number == Number::s8) {
    for (int i = thread * 4; i < elements; i += threads * 4) {
      const int s = i / D, c = i % D;
      *reinterpret_cast<uint32_t*>(target + i) =
          ptx::pack_s8x4(code(s, c), code(s, c + 1), code(s, c + 2), code(s, c + 3));
    }
  } else {
    for (int i = thread * 8; i < elements; i += threads * 8) {
      Channels8 codes;
#pragma unroll
      for (int c = 0; c < 8; c++) codes.x[c] = code(i / D, i % D + c);
      *reinterpret_cast<uint32_t*>(target + i / 2) = codes_s4(codes);
    }
  }
}

}  // namespace paro::kernels::summaries
