// Stage 1's addition for fine summaries: four means of keys and of values for each key block, with
// a scale of their own.
//
// Grid: x key block, y unit, z 0 for keys and 1 for values.
#pragma once

#include "kernels/rotate.cuh"
#include "kernels/summaries/gather.cuh"

namespace paro::kernels::summaries {

template <int D, int BlockK>
struct FineMemory {
  RawRows<D, BlockK> rows;
  float means[paro::kernels::fine_summaries][D];
  uint32_t warp_magnitude[threads / 32];
  alignas(16) float rotated[threads * 8 / D][D];  // rows of smoothed keys, or sums of two
};

// The four means of smoothed keys. A thread has eight channels of a row, so that lanes rotate it. It
// adds the two rows of a run that are 16 apart, the first halving of 32; 16 are left for a thread
// of each channel.
template <bool IsBfloat16, int D, int BlockK>
DEVICE_FN void write_rotated_means(const FineParams& p, const Unit& unit, int first_position,
                                   int length, FineMemory<D, BlockK>& shared) {
  constexpr int run = BlockK / fine_summaries, lanes = D / 8, rows = 16;
  constexpr int at_once = threads / lanes / rows;  // runs
  const Geometry& g = p.geometry;
  const int thread = static_cast<int>(threadIdx.x), first_channel = thread % lanes * 8;
  const Rotation rotation = Rotation::of(p.plan, unit.kv_head, first_channel, D);
  const float* shifts = affine_row(g, p.plan, PARO_KEY_MEAN, unit.kv_head, D) + first_channel;
  const float* divisors = affine_row(g, p.plan, PARO_EQUALIZER, unit.kv_head, D) + first_channel;
#pragma unroll 1
  for (int summary = 0; summary < fine_summaries; summary += at_once) {
    Channels8 sum;
#pragma unroll
    for (int half = 0; half < run / rows; half++) {
      const int row =
          (summary + thread / lanes / rows) * run + half * rows + thread / lanes % rows;
      Channels8 c = channels_from_16bit(
          *reinterpret_cast<const uint4*>(&shared.rows.row[row][first_channel]), IsBfloat16);
      if (first_position + row < length) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
          c.x[i] = (c.x[i] - __ldg(shifts + i)) * __frcp_rn(__ldg(divisors + i));
        }
      }
      rotate<D>(rotation, c);
#pragma unroll
      for (int i = 0; i < 8; i++) sum.x[i] = half == 0 ? c.x[i] : __fadd_rn(sum.x[i], c.x[i]);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) shared.rotated[thread / lanes][first_channel + i] = sum.x[i];
    __syncthreads();  // sync: the rows are written
    if (thread < at_once * D) {
      const int which = thread / D, channel = thread % D;
      const float total = halved_sum<rows>(
          [&](int row) { return shared.rotated[which * rows + row][channel]; }, 0);
      const int first = first_position + (summary + which) * run;
      shared.means[summary + which][channel] = mean_of(total, tokens_of_run(length, first, run));
    }
    __syncthreads();  // sync: the means are written, and the rows are free for the next runs
  }
}

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
  const bool smoothed = is_key && p.plan.rotation != nullptr;
  if (smoothed) {
    write_rotated_means<IsBfloat16>(p, unit, block * BlockK, length, shared);
    for (int i = thread; i < elements; i += threads) {
      largest = max(largest, magnitude_bits(shared.means[i / D][i % D]));
    }
  }
  for (int i = smoothed ? elements : thread; i < elements; i += threads) {
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
