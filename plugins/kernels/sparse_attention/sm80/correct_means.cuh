// The mean correction: what sparse attention lacks for the mean query of each run of 128 rows. It
// runs before stage 2, which adds it to the rows of corrected heads.
//
// A thread block takes 64 query blocks of one head. A row of its query tile is the mean query of
// the run that a query block lies in. One sweep over all tokens serves dense and sparse attention:
// a row adds a key block to `mixed` where its query block lists it, to `rest` elsewhere. Both
// together are the dense result. Fine and coarse summaries then join `mixed`.
//
// Grid: x 64 query blocks, y head of the launch.
#pragma once

#include "kernels/sparse_attention/sm80/correction_load.cuh"
#include "kernels/sparse_attention/sm80/correction_step.cuh"

namespace paro::kernels::sparse_attention::sm80 {

// Of the lane's rows, `lane_block` and the eighth after it. `index`: the head of the launch.
DEVICE_FN LaneMasks lane_masks(const AttentionParams& attention, int bin, int head, int index,
                               int lane_block) {
  const Geometry& g = attention.geometry;
  LaneMasks masks;
#pragma unroll
  for (int row = 0; row < 2; row++) {
    const int block = lane_block + row * 8;
    const bool exists = block < g.query_blocks;
    const int64_t in_plan =
        (static_cast<int64_t>(bin * g.heads + head) * g.query_blocks + block) * g.mask_words;
    const int64_t routed = (static_cast<int64_t>(index) * g.query_blocks + block) * g.mask_words;
    const auto* plan_mask = reinterpret_cast<const uint32_t*>(attention.plan.block_mask);
    const auto* fine_mask = reinterpret_cast<const uint32_t*>(attention.plan.fine_mask);
    masks.exact[row] = !exists                           ? nullptr
                       : attention.routed_mask != nullptr ? attention.routed_mask + routed
                                                          : plan_mask + in_plan;
    masks.fine[row] = exists && fine_mask != nullptr ? fine_mask + in_plan : nullptr;
  }
  return masks;
}

// Sum of a row over the four lanes that hold it, inverted; 0 for a row that attends nothing.
PTX_FN float inverse_sum(float sum) {
  sum += __shfl_xor_sync(~0u, sum, 1);
  sum += __shfl_xor_sync(~0u, sum, 2);
  return sum == 0.0f ? 0.0f : __fdiv_rn(1.0f, sum);
}

// rest.out = dense attention, normalised: both parts of the tokens.
template <class C>
PTX_FN void merge_dense(const LoopState<C>& mixed, LoopState<C>& rest) {
#pragma unroll
  for (int row = 0; row < 2; row++) {
    const float first = mixed.rows[0].maximum[row], second = rest.rows[0].maximum[row];
    const float largest = fmaxf(first, second);
    const float of_mixed = ptx::exp2_approx(first - largest);
    const float of_rest = ptx::exp2_approx(second - largest);
    const float sum = mixed.rows[0].sum[row] * of_mixed + rest.rows[0].sum[row] * of_rest;
    const float inverse = inverse_sum(sum);
#pragma unroll
    for (int d = 0; d < C::head_dim / 8; d++) {
#pragma unroll
      for (int i = 2 * row; i < 2 * row + 2; i++) {
        rest.out[0][d][i] =
            (mixed.out[0][d][i] * of_mixed + rest.out[0][d][i] * of_rest) * inverse;
      }
    }
  }
}

// Writes what `mixed` lacks of dense attention, which `rest` has.
template <class C>
DEVICE_FN void write_correction(const CorrectionParams& p, const Unit& unit, int index,
                                int lane_block, const LoopState<C>& mixed,
                                const LoopState<C>& rest) {
  const Geometry& g = p.attention.geometry;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float* scale =
      affine_row(g, p.attention.plan, PARO_VALUE_SCALE, unit.kv_head, C::head_dim);
#pragma unroll
  for (int row = 0; row < 2; row++) {
    const int block = lane_block + row * 8;
    const float inverse = inverse_sum(mixed.rows[0].sum[row]);
    if (block >= g.query_blocks) continue;
    float* to =
        p.correction + (static_cast<int64_t>(index) * g.query_blocks + block) * C::head_dim;
#pragma unroll
    for (int d = 0; d < C::head_dim / 8; d++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int channel = d * 8 + lane % 4 * 2 + i;
        const float lacks =
            rest.out[0][d][2 * row + i] - mixed.out[0][d][2 * row + i] * inverse;
        to[channel] = is_integer(C::pv) ? lacks * __ldg(scale + channel) : lacks;
      }
    }
  }
}

// Walks `steps` steps through a ring: `load(step, slot)` starts copies, `attend(step, slot)` uses
// what has landed. At the end every thread has left the slots.
template <int Slots, class Load, class Attend>
DEVICE_FN void walk_ring(int steps, const Load& load, const Attend& attend) {
  constexpr int ahead = Slots - 1;
  const auto start = [&](int step) {
    if (step < steps) load(step, step % Slots);
    ptx::cp_async_commit();
  };
  for (int step = 0; step < ahead; step++) start(step);
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    if constexpr (ahead == 0) {
      start(step);
      ptx::cp_async_wait_all();
      __syncthreads();  // sync: every thread's part of the slot has landed
    } else {
      ptx::cp_async_wait<ahead - 1>();
      // sync: every thread's part of this slot has landed, and every thread has left the slot that
      // the next load overwrites
      __syncthreads();
      start(step + ahead);
    }
    attend(step, step % Slots);
    if constexpr (ahead == 0) __syncthreads();  // sync: every thread has left the only slot
  }
  ptx::cp_async_wait_all();
  __syncthreads();  // sync: every thread has left the slots
}

template <class C, bool Smoothed>
DEVICE_FN void correct_query_blocks(const CorrectionParams& p) {
  DYN_SMEM(memory);
  auto& shared = *reinterpret_cast<CorrectionMemory<C>*>(memory);
  const AttentionParams& attention = p.attention;
  const Geometry& g = attention.geometry;
  const int index = static_cast<int>(blockIdx.y);
  const int group = g.heads / g.kv_heads, first_block = static_cast<int>(blockIdx.x) * C::tile_rows;
  const Unit unit = unit_at(g, index / group);
  const int head = unit.kv_head * group + index % group;
  const int length = length_of(g, attention.plan, unit.sample);
  if (__ldg(attention.plan.corrected_heads + head) == 0) return;
  if (first_block * g.block_q >= length) return;
  const Extent e = extent_of<C::step_keys>(g, length);
  const int bin = min(max(__ldg(attention.plan.mask_bin + unit.sample), 0), g.bins - 1);
  const int lane_block =
      first_block + static_cast<int>(threadIdx.x) / 32 * C::rows_per_warp +
      static_cast<int>(threadIdx.x % 32) / 4;
  const LaneMasks masks = lane_masks(attention, bin, head, index, lane_block);
  load_mean_queries<C, Smoothed>(p, unit, index, first_block, shared.query, shared.row_factors);
  __syncthreads();  // sync: the query tile and its factors are written

  LoopState<C> mixed, rest;
  clear_state<C>(mixed);
  clear_state<C>(rest);
  BiasedZero zero;
  ptx::hold(zero.registers, ptx::biased_zero);
  const uint32_t query_tile = ptx::shared_u32(shared.query);
  const uint32_t slots = ptx::shared_u32(shared.slots);
  const float* lane_factors =
      shared.row_factors + threadIdx.x / 32 * C::rows_per_warp + threadIdx.x % 32 / 4;
  const auto key_tile = [&](int slot) {
    return slots + static_cast<uint32_t>(slot * int{sizeof(Slot<C>)});
  };
  walk_ring<Layout<C>::slots>(
      e.existing_spans(),
      [&](int span, int slot) {
        load_prepared<C, Smoothed>(p, e, unit.index, span, key_tile(slot), shared.extras[slot]);
        const auto existing = [&](int part, int) {
          return low_bits(length - (span << e.span_shift) - part * 32);
        };
        write_weights<C>(e, span, existing, shared.extras[slot].weights);
      },
      [&](int span, int slot) {
        const int block = span >> e.block_shift;
        Listed listed;
#pragma unroll
        for (int row = 0; row < 2; row++) {
          listed.row[row] = (masks.exact_word(row, block / 32) >> (block % 32) & 1u) != 0;
        }
        float offset[2] = {};
        if constexpr (Smoothed) {
          block_offsets<C>(attention, unit.index, block, query_tile, lane_factors, zero, offset);
        }
        attend_tokens<C, Smoothed>(query_tile, lane_factors, key_tile(slot), shared.extras[slot],
                                   zero, listed, offset, mixed, rest);
      });
  merge_dense<C>(mixed, rest);
  if (attention.plan.fine_mask != nullptr) {
    using FineSlot = Slot<FineVariant<C>>;
    const auto fine_tile = [&](int slot) {
      return slots + static_cast<uint32_t>(slot * int{sizeof(FineSlot)});
    };
    const int blocks = e.existing_blocks();
    walk_ring<CorrectionMemory<C>::fine_slots>(
        (blocks + fine_step_groups - 1) / fine_step_groups,
        [&](int step, int slot) {
          const int block =
              step * fine_step_groups + static_cast<int>(threadIdx.x) / group_threads<C>;
          load_group<C>(attention.fine, static_cast<int64_t>(unit.index) * g.key_blocks,
                        min(block, blocks - 1), [&](int) { return block < blocks; }, e,
                        fine_tile(slot), shared.fine[slot]);
        },
        [&](int step, int slot) {
          HideOthers<C> others;
#pragma unroll
          for (int row = 0; row < 2; row++) {
            const uint32_t word = masks.fine_word(row, step / 2) >> step % 2 * 16 & 0xFFFFu;
            const int left = blocks - step * fine_step_groups;
            others.fine[row] = left < fine_step_groups ? word & ~(~0u << left) : word;
          }
          GroupShares shares{};
          if constexpr (is_integer(C::pv)) shares = group_shares<C>(shared.fine[slot]);
          attend_fine_rows<C>(query_tile, lane_factors, fine_tile(slot), shared.fine[slot], shares,
                              zero, others, mixed.rows[0], mixed.out[0]);
        });
  }
  walk_ring<Layout<C>::slots>(
      e.summary_spans(),
      [&](int span, int slot) {
        load_prepared<C, Smoothed>(p, e, unit.index, e.token_spans + span, key_tile(slot),
                                   shared.extras[slot]);
        const auto existing = [&](int part, int) {
          return low_bits(e.existing_blocks() - (span << e.span_shift) - part * 32);
        };
        write_weights<C>(e, e.token_spans + span, existing, shared.extras[slot].weights);
      },
      [&](int span, int slot) {
        constexpr int words = C::step_keys / 32;
        uint32_t covered[2][words];
        bool attends[2] = {};
#pragma unroll
        for (int row = 0; row < 2; row++) {
#pragma unroll
          for (int i = 0; i < words; i++) {
            const int word = span * words + i, left = e.existing_blocks() - word * 32;
            covered[row][i] = left <= 0 ? ~0u
                                        : masks.exact_word(row, word) | masks.fine_word(row, word) |
                                              ~low_bits(left);
            attends[row] = attends[row] || covered[row][i] != ~0u;
          }
        }
        attend_coarse<C>(query_tile, lane_factors, key_tile(slot), shared.extras[slot], zero,
                         covered, attends, mixed);
      });

  write_correction<C>(p, unit, index, lane_block, mixed, rest);
}

// `Smoothed`: C has 8-bit keys, of which those less their block's mean need an offset.
template <class C, bool Smoothed>
__global__ void __launch_bounds__(C::compute_threads, 2) correct_means(const CorrectionParams p) {
  correct_query_blocks<C, Smoothed>(p);
}

}  // namespace paro::kernels::sparse_attention::sm80
