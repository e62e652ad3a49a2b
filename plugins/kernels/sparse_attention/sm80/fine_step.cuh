// Fine summaries: a query block gathers the groups of its fine key blocks, 16 at a time, into steps
// of 64 keys (common/fine_walk.cuh).
#pragma once

#include "kernels/sparse_attention/common/fine_walk.cuh"
#include "kernels/sparse_attention/sm80/attend_step.cuh"

namespace paro::kernels::sparse_attention::sm80 {

// A variant's steps of fine summaries. A warp takes 16 of its rows after the other: all 32 would
// spill where the output has 128 channels.
template <class V>
struct FineVariant {
  static constexpr int head_dim = V::head_dim;
  static constexpr int block_q = V::block_q, tile_rows = V::tile_rows;
  static constexpr int query_blocks = V::query_blocks;
  static constexpr int step_keys = fine_step_keys;
  static constexpr Number qk = V::qk, pv = fine_number(V::pv);
  static constexpr FourBit four_bit = V::four_bit;
  static constexpr bool unpacks_keys = V::unpacks_keys, unpacks_values = false;
  static constexpr int rows_per_warp = 16;
  static constexpr int compute_threads = V::compute_threads;
  static constexpr int query_row_bytes = V::query_row_bytes;
};

// What a step needs in addition to its tiles.
template <int QueryBlocks>
struct alignas(16) FineExtras {
  float key_scale[fine_step_groups];
  float value_scale[fine_step_groups];
  // log2 of the tokens of a key; lowest_logit: absent, or not fine for that query block
  float weight[QueryBlocks][fine_step_keys];
};

// The slots take the place of the ring's, which by then is empty.
template <class V>
constexpr int fine_slots_in(size_t bytes) {
  return bytes >= 2 * sizeof(Slot<FineVariant<V>>) ? 2 : 1;
}
template <class V>
constexpr int fine_slots = fine_slots_in<V>(sizeof(Tiles<V>::slots));

// Threads that load one group.
template <class V>
constexpr int group_threads = V::compute_threads / fine_step_groups;

// Starts the copies of one thread's part of a group, and writes what its keys stand for.
// `is_fine(i)`: whether the group is one of query block i of the tile.
template <class V, class IsFine>
DEVICE_FN void load_group(const FineGroups& fine, int64_t first_group, int block,
                          const IsFine& is_fine, const Extent& e, uint32_t key_tile,
                          FineExtras<V::query_blocks>& extras) {
  using F = FineVariant<V>;
  using L = Layout<F>;
  constexpr uint32_t lanes = group_threads<V>;
  const uint32_t group = threadIdx.x / lanes, lane = threadIdx.x % lanes;
  const int64_t at = first_group + block;
  const auto copy_rows = [&]<int RowBytes>(uint32_t tile, const uint8_t* source) {
    constexpr uint32_t row_chunks = RowBytes / 16, chunks = fine_summaries * row_chunks;
#pragma unroll
    for (uint32_t first = 0; first < chunks; first += lanes) {
      const uint32_t i = first + lane;
      if (chunks % lanes != 0 && i >= chunks) break;
      const uint32_t row = fine_row(group, i / row_chunks);
      ptx::cp_async_16(tile + swizzled_offset<RowBytes>(row, i % row_chunks), source + i * 16);
    }
  };
  copy_rows.template operator()<L::key_row_bytes>(
      key_tile, fine.key + at * fine_summaries * L::key_row_bytes);
  const uint32_t value_tile = key_tile + static_cast<uint32_t>(offsetof(Slot<F>, value));
  if constexpr (is_integer(F::pv)) {
    const uint8_t* source = fine.value + at * fine_summaries * V::head_dim;
#pragma unroll
    for (uint32_t first = 0; first < V::head_dim; first += lanes) {
      const uint32_t channel = first + lane;
      ptx::cp_async_small<4>(
          value_tile + swizzled_offset<L::value_row_bytes>(channel, group / 4) + group % 4 * 4,
          source + channel * 4);
    }
  } else {
    copy_rows.template operator()<L::value_row_bytes>(
        value_tile, fine.value + at * fine_summaries * L::value_row_bytes);
  }
  if (is_integer(F::qk) && lane == 0) {
    ptx::cp_async_small<4>(ptx::shared_u32(&extras.key_scale[group]), fine.key_scale + at);
  }
  if (is_integer(F::pv) && lane == 1) {
    ptx::cp_async_small<4>(ptx::shared_u32(&extras.value_scale[group]), fine.value_scale + at);
  }
  if (lane < fine_summaries) {
    const int run = (e.span_keys() << e.block_shift) / fine_summaries;
    const int first = (block * fine_summaries + static_cast<int>(lane)) * run;
    const int count = min(max(e.length - first, 0), run);
    const float weight = count == 0 ? lowest_logit : ptx::log2_approx(static_cast<float>(count));
#pragma unroll
    for (int i = 0; i < V::query_blocks; i++) {
      extras.weight[i][fine_row(group, lane)] = is_fine(i) ? weight : lowest_logit;
    }
  }
}

// Products of 16 rows become logits: each key with the scale of its group and its weight. An absent
// key has the data of a listed one, so that what is not finite there reaches the row anyway.
template <class F>
PTX_FN void weigh_groups(const FineExtras<F::query_blocks>& extras,
                         const float (&factor)[2], float (&x)[key_fragments<F>][4]) {
  const int lane = static_cast<int>(threadIdx.x % 4);
  const float* weights = extras.weight[own_block<F>()];
#pragma unroll
  for (int n = 0; n < key_fragments<F>; n++) {
    const float scale = is_integer(F::qk) ? extras.key_scale[n / 2 * 4 + lane] : 1.0f;
    const float2 weight = *reinterpret_cast<const float2*>(weights + n * 8 + lane * 2);
#pragma unroll
    for (int row = 0; row < 2; row++) {
      const float by = factor[row] * scale;
      x[n][2 * row] = fmaf(x[n][2 * row], by, weight.x);
      x[n][2 * row + 1] = fmaf(x[n][2 * row + 1], by, weight.y);
    }
  }
}

// The value scales of the lane's groups relative to the largest of the step. Groups of another query
// block do not count: P has no codes in them.
struct GroupShares {
  float of_group[fine_step_groups / 4];
  float largest;
};

template <class F>
PTX_FN GroupShares group_shares(const FineExtras<F::query_blocks>& extras) {
  GroupShares shares;
  float scale[fine_step_groups / 4];
  float largest = 0.0f;
#pragma unroll
  for (uint32_t q = 0; q < fine_step_groups / 4; q++) {
    scale[q] = extras.value_scale[q * 4 + threadIdx.x % 4];
    if (F::query_blocks > 1) {
      const float weight = extras.weight[own_block<F>()][fine_row(q * 4 + threadIdx.x % 4, 0)];
      if (weight == lowest_logit) scale[q] = 0.0f;
    }
    largest = ptx::maximum_or_nan(largest, scale[q]);
  }
  shares.largest = quad_maximum(largest);
#pragma unroll
  for (int q = 0; q < fine_step_groups / 4; q++) {
    shares.of_group[q] = shares.largest == 0.0f ? 0.0f : __fdividef(scale[q], shares.largest);
  }
  return shares;
}

// Integer P as operand: its codes have the share of their group, the row sums P itself.
template <class F>
PTX_FN Probabilities<F> pack_shares(float (&x)[key_fragments<F>][4], const GroupShares& shares,
                                    const StepWeights& weights, RowState& state) {
  float sum[2] = {};
#pragma unroll
  for (int n = 0; n < key_fragments<F>; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      sum[i / 2] += x[n][i];
      x[n][i] *= shares.of_group[n / 2];
    }
  }
#pragma unroll
  for (int row = 0; row < 2; row++) {
    state.sum[row] = fmaf(weights.take[row], sum[row], state.sum[row] * weights.keep[row]);
  }
  Probabilities<F> p;
#pragma unroll
  for (int n = 0; n < key_fragments<F>; n += 2) {
#pragma unroll
    for (int row = 0; row < 2; row++) {
      p.a[n / 4][n / 2 % 2 * 2 + row] = ptx::pack_u8x4_in_range(
          x[n][2 * row], x[n][2 * row + 1], x[n + 1][2 * row], x[n + 1][2 * row + 1]);
    }
  }
  return p;
}

// Row sums and output count codes of the variant's own P.
template <class V>
constexpr float fine_levels = V::pv == Number::s4 ? 15.0f / 255.0f : 1.0f;

// out = out * keep + P V * take, as value_product does for all rows of a warp.
template <class V, class F = FineVariant<V>>
PTX_FN void add_fine_values(uint32_t value_tile, const BiasedZero& zero, const Probabilities<F>& p,
                            const StepWeights& weights, float (&out)[F::head_dim / 8][4]) {
  if constexpr (!is_integer(F::pv)) {
#pragma unroll
    for (int d = 0; d < F::head_dim / 8; d++) {
#pragma unroll
      for (int i = 0; i < 4; i++) out[d][i] *= weights.keep[i / 2];
    }
  }
#pragma unroll
  for (uint32_t d = 0; d < F::head_dim / 8; d += 2) {
    hold_loads_back(d > 0 && d % LoadOrder<V>::fine_fragments == 0);
    ValueFragments<F> fragments[1];
    load_values<F>(value_tile, d, fragments);
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
      if constexpr (is_integer(F::pv)) {
        int32_t c[4];
        multiply_values<F>(0, zero, c, p, fragments[0].b[half]);
        add_product<F>(c, weights.keep, weights.take, {}, out[d + half]);
      } else {
        multiply_values<F>(0, zero, out[d + half], p, fragments[0].b[half]);
      }
    }
  }
}

// One step of 16 rows. `hide` takes groups from rows: in the mean correction, whose rows have masks
// of their own.
template <class V, class Hide>
PTX_FN void attend_fine_rows(uint32_t query_rows, const float* lane_factors, uint32_t key_tile,
                             const FineExtras<V::query_blocks>& extras,
                             const GroupShares& shares, const BiasedZero& zero, const Hide& hide,
                             RowState& rows,
                             float (&out)[V::head_dim / 8][4]) {
  using F = FineVariant<V>;
  Scores<F> scores;
  score_product<F>(query_rows, key_tile, zero, AllKeys<F>{}, scores);
  hold_loads_back(LoadOrder<V>::by_fine_scores);
  const float factor[2] = {lane_factors[0] * score_scale<F>, lane_factors[8] * score_scale<F>};
  float x[key_fragments<F>][4];
  to_floats<F>(scores[0], AllKeys<F>{}, x);
  weigh_groups<F>(extras, factor, x);
  hide.logits(x);
  constexpr float one[2] = {1.0f, 1.0f};
  StepWeights weights = exponentiate<F>(x, one, 0.0f, rows);
  hide.probabilities(x);
  Probabilities<F> p;
  if constexpr (is_integer(F::pv)) {
    weights.take[0] *= fine_levels<V>;
    weights.take[1] *= fine_levels<V>;
    p = pack_shares<F>(x, shares, weights, rows);
    weights.take[0] *= shares.largest;
    weights.take[1] *= shares.largest;
  } else {
    p = pack_probabilities<F>(x, weights, rows);
  }
  const uint32_t value_tile = key_tile + static_cast<uint32_t>(offsetof(Slot<F>, value));
  add_fine_values<V>(value_tile, zero, p, weights, out);
}

// Every row attends every group of a step.
template <class V>
struct HideNothing {
  using X = float[key_fragments<FineVariant<V>>][4];
  __device__ __forceinline__ void logits(X&) const {}
  __device__ __forceinline__ void probabilities(X&) const {}
};

template <class V>
PTX_FN void attend_fine_step(uint32_t query_tile, const float* lane_factors, uint32_t key_tile,
                             const FineExtras<V::query_blocks>& extras, const BiasedZero& zero,
                             LoopState<V>& state) {
  using F = FineVariant<V>;
  if constexpr (V::query_blocks > 1) {
    // The weight of a group's first key: absent in all 16 where the query block has none of them.
    const float weight = extras.weight[own_block<V>()][fine_row(threadIdx.x % fine_step_groups, 0)];
    if (!__any_sync(~0u, weight != lowest_logit)) return;
  }
  GroupShares shares{};
  if constexpr (is_integer(F::pv)) shares = group_shares<F>(extras);
#pragma unroll
  for (uint32_t a = 0; a < row_fragments<V>; a++) {
    // Products take rows 16 w .. of warp w: here they are rows w * rows_per_warp + 16 a.
    const uint32_t first = threadIdx.x / 32 * (V::rows_per_warp - F::rows_per_warp) + a * 16;
    attend_fine_rows<V>(query_tile + first * V::query_row_bytes, lane_factors + a * 16, key_tile,
                        extras, shares, zero, HideNothing<V>{}, state.rows[a], state.out[a]);
    hold_loads_back(true);
  }
}

// Where fine summaries are used, their extras follow the shared memory of all kernels, and the
// masks follow them.
template <class V>
DEVICE_FN FineExtras<V::query_blocks>* fine_extras(SharedMemory<V>& shared) {
  return reinterpret_cast<FineExtras<V::query_blocks>*>(&shared + 1);
}
template <class V>
DEVICE_FN uint32_t* mask_words(SharedMemory<V>& shared, bool has_fine) {
  return reinterpret_cast<uint32_t*>(fine_extras(shared) + (has_fine ? fine_slots<V> : 0));
}

// All fine blocks of the tile. `slots`: the address of Slots slots in the shared window, of which
// every thread has left what was there before.
template <class V, int Slots>
PTX_FN void attend_fine_steps(const AttentionParams& p, const Work& work,
                              const TileMask<V::query_blocks>& mask, uint32_t query_tile,
                              const float* lane_factors, uint32_t slots,
                              FineExtras<V::query_blocks>* extras, const BiasedZero& zero,
                              LoopState<V>& state) {
  using FineSlot = Slot<FineVariant<V>>;
  constexpr int fine_ahead = Slots - 1;  // steps between a load and its use
  const int blocks = count_fine_blocks(mask, work.extent);
  const int steps = (blocks + fine_step_groups - 1) / fine_step_groups;
  if (steps == 0) return;
  const int64_t first_group = static_cast<int64_t>(work.query.unit.index) * p.geometry.key_blocks;
  const int group = static_cast<int>(threadIdx.x) / group_threads<V>;
  TileFineWalk<V::query_blocks> walk(mask, work.extent, group);
  const auto slot_of = [](int step) { return step % Slots; };
  const auto load = [&](int step) {
    if (step < steps) {
      const bool exists = step * fine_step_groups + group < blocks;
      const int slot = slot_of(step);
      const int block = walk.current(exists), span = block << work.extent.block_shift;
      const auto is_fine = [&](int i) {
        return exists && (V::query_blocks == 1 || (mask.covers(span, i) && !mask.has(span, i)));
      };
      load_group<V>(p.fine, first_group, block, is_fine, work.extent,
                    slots + static_cast<uint32_t>(slot * int{sizeof(FineSlot)}), extras[slot]);
      walk.advance(fine_step_groups);
    }
    ptx::cp_async_commit();
  };
  for (int step = 0; step < fine_ahead; step++) load(step);
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    if constexpr (fine_ahead == 0) {
      __syncthreads();  // sync: every thread has left the only slot, which this load overwrites
      load(step);
      ptx::cp_async_wait_all();
      __syncthreads();  // sync: every thread's part of the slot has landed
    } else {
      ptx::cp_async_wait<fine_ahead - 1>();
      // sync: every thread's part of this slot has landed, and every thread has left the slot that
      // the next load overwrites
      __syncthreads();
      load(step + fine_ahead);
    }
    const int slot = slot_of(step);
    attend_fine_step<V>(query_tile, lane_factors,
                        slots + static_cast<uint32_t>(slot * int{sizeof(FineSlot)}), extras[slot],
                        zero, state);
  }
  ptx::cp_async_wait_all();
  __syncthreads();  // sync: every thread has left the tiles, which the output overwrites
}

// The same in the slots of the ring, which is empty.
template <class V>
PTX_FN void attend_fine_blocks(const AttentionParams& p, const TileMask<V::query_blocks>& mask,
                               uint32_t query_tile, const float* lane_factors,
                               const BiasedZero& zero, LoopState<V>& state) {
  DYN_SMEM(memory);
  auto& shared = *reinterpret_cast<SharedMemory<V>*>(memory);
  attend_fine_steps<V, fine_slots<V>>(p, shared.work, mask, query_tile, lane_factors,
                                      ptx::shared_u32(&shared.tiles.slots), fine_extras(shared),
                                      zero, state);
}

}  // namespace paro::kernels::sparse_attention::sm80
