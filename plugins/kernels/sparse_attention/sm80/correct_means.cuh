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

#include "kernels/rotate.cuh"
#include "kernels/sparse_attention/sm80/fine_step.cuh"
#include "kernels/sparse_attention/sm80/offsets.cuh"

namespace paro::kernels::sparse_attention::sm80 {

// 16 rows a warp leave registers for two outputs.
template <int HeadDim, int StepKeys, Number Qk, Number Pv, FourBit Four>
struct CorrectionVariant : Variant<HeadDim, 64, StepKeys, Qk, Pv, Four> {
  static constexpr int rows_per_warp = 16;
  // A row is a query block, and masks are the lanes' own.
  static constexpr int tile_rows = 64, query_blocks = 1;
  static constexpr int compute_threads = tile_rows / rows_per_warp * 32;
};

template <class C>
struct alignas(16) CorrectionMemory {
  static constexpr int fine_slots = fine_slots_in<C>(Layout<C>::slots * sizeof(Slot<C>));

  uint8_t query[Layout<C>::query_bytes];
  Slot<C> slots[Layout<C>::slots];
  float row_factors[C::tile_rows];
  StepExtras<C> extras[Layout<C>::slots];
  FineExtras<1> fine[fine_slots];
};

// The mask rows of the two query blocks of a lane; null where there is no such block.
struct LaneMasks {
  const uint32_t* exact[2];
  const uint32_t* fine[2];

  __device__ __forceinline__ uint32_t exact_word(int row, int index) const {
    return exact[row] == nullptr ? 0u : __ldg(exact[row] + index);
  }
  // Fine blocks, which are not exact.
  __device__ __forceinline__ uint32_t fine_word(int row, int index) const {
    return fine[row] == nullptr ? 0u : __ldg(fine[row] + index) & ~exact_word(row, index);
  }
};

// A tile that stage 1 wrote swizzled is copied as it is.
template <int RowBytes, int Rows, int Threads>
DEVICE_FN void copy_prepared(TileLayout layout, uint32_t tile, const uint8_t* source) {
  if (layout == TileLayout::rows) {
    copy_tile<RowBytes, Rows, Threads>(tile, source);
    return;
  }
#pragma unroll
  for (uint32_t at = threadIdx.x * 16; at < RowBytes * Rows; at += Threads * 16) {
    ptx::cp_async_16(tile + at, source + at);
  }
}

// Fills the query tile with mean queries, as load_query does with queries. Smoothed ones are rotated.
template <class C, bool Smoothed>
DEVICE_FN void load_mean_queries(const CorrectionParams& p, const Unit& unit, int launch_head,
                                 int first_block, uint8_t* tile, float* row_factors) {
  constexpr int lanes = C::head_dim / 8, rows_per_pass = C::compute_threads / lanes;
  const Geometry& g = p.attention.geometry;
  const int thread = static_cast<int>(threadIdx.x), first_channel = thread % lanes * 8;
  const int runs = (g.tokens + correction_rows - 1) / correction_rows;
  const float* equalizer =
      affine_row(g, p.attention.plan, PARO_EQUALIZER, unit.kv_head, C::head_dim) + first_channel;
  Rotation rotation{};
  if constexpr (Smoothed) {
    rotation = Rotation::of(p.attention.plan, unit.kv_head, first_channel, C::head_dim);
  }
#pragma unroll 1
  for (int row = thread / lanes; row < C::tile_rows; row += rows_per_pass) {
    const int block = min(first_block + row, g.query_blocks - 1);
    const int64_t run = static_cast<int64_t>(launch_head) * runs + block * g.block_q / correction_rows;
    const float* source = p.mean_query + run * C::head_dim + first_channel;
    Channels8 x;
#pragma unroll
    for (int i = 0; i < 8; i++) x.x[i] = source[i];
    if constexpr (!is_integer(C::qk)) {
      const uint32_t offset = swizzled_offset<C::query_row_bytes>(
          static_cast<uint32_t>(row), static_cast<uint32_t>(first_channel / 8));
      *reinterpret_cast<uint4*>(tile + offset) = channels_to_16bit(x, C::qk == Number::bf16);
      if (first_channel == 0) row_factors[row] = p.attention.logit_scale;
    } else {
      uint32_t largest = 0;
#pragma unroll
      for (int i = 0; i < 8; i++) x.x[i] *= __ldg(equalizer + i);
      if constexpr (Smoothed) rotate<C::head_dim>(rotation, x);
      largest = largest_magnitude(x);
#pragma unroll
      for (int distance = 1; distance < lanes; distance *= 2) {
        largest = max(largest, __shfl_xor_sync(~0u, largest, distance));
      }
      const Scale scale = scale_of(largest, levels_of(C::qk));
      store_query_codes<C>(tile, row, first_channel, scaled(x, scale.inverse));
      if (first_channel == 0) row_factors[row] = scale.scale * p.attention.logit_scale;
    }
  }
}

// A span's tile of keys and their scale.
struct KeyTile {
  const uint8_t* codes;
  const float* scale;
};

// Of smoothed keys: those at 8 bits less their block's mean, or the means.
template <class C>
DEVICE_FN KeyTile smoothed_tile(const AttentionParams& p, int unit, int span) {
  const SmoothedKeys& keys = p.smoothed;
  const int count = p.geometry.key_blocks;
  const bool is_mean = span >= count;
  const int64_t tile =
      is_mean ? int64_t{unit} * mean_blocks(count, C::step_keys) + (span - count)
              : int64_t{unit} * count + span;
  return {(is_mean ? keys.mean : keys.centred) + tile * Layout<C>::key_bytes,
          (is_mean ? keys.mean_scale : keys.centred_scale) + tile};
}

// Starts the copies of a span's tiles and scales, as load_tiles does, from either layout.
template <class C, bool Smoothed>
DEVICE_FN void load_prepared(const CorrectionParams& p, const Extent& e, int unit, int span,
                             uint32_t key_tile, StepExtras<C>& extras) {
  using L = Layout<C>;
  const PreparedKeys& keys = p.attention.prepared;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t first_block = first_prepared_block(p.attention.geometry, unit);
  const int64_t block = first_block + (span >> e.block_shift);
  const int64_t stored = (first_block << e.block_shift) + span;
  KeyTile tile{keys.key + stored * L::key_bytes, keys.key_scale + block};
  if constexpr (Smoothed) tile = smoothed_tile<C>(p.attention, unit, span);
  copy_prepared<L::key_row_bytes, C::step_keys, C::compute_threads>(p.layout, key_tile,
                                                                    tile.codes);
  copy_prepared<L::value_row_bytes, L::value_tiles * L::value_rows, C::compute_threads>(
      p.layout, key_tile + static_cast<uint32_t>(offsetof(Slot<C>, value)),
      keys.value + stored * L::value_bytes);
  if (is_integer(C::qk) && thread == 0) {
    ptx::cp_async_small<4>(ptx::shared_u32(&extras.key_scale), tile.scale);
  }
  if (C::pv == Number::s8 && thread == 32) {
    ptx::cp_async_small<4>(ptx::shared_u32(extras.value_scale), keys.value_scale + block);
  }
  if (C::pv == Number::s4 && thread < C::head_dim / 4) {
    ptx::cp_async_16(ptx::shared_u32(extras.value_scale) + static_cast<uint32_t>(thread) * 16,
                     keys.value_scale + block * C::head_dim + thread * 4);
  }
}

// Which of a lane's two rows have the span's block on their mask.
struct Listed {
  bool row[2];
};

// `both` with the other half of what it has: weights that add a step to `mixed` or to `rest`.
PTX_FN StepWeights weights_where(const StepWeights& both, const Listed& listed, bool wanted) {
  StepWeights part;
#pragma unroll
  for (int row = 0; row < 2; row++) {
    const bool here = listed.row[row] == wanted;
    part.keep[row] = here ? both.keep[row] : 1.0f;
    part.take[row] = here ? both.take[row] : 0.0f;
  }
  return part;
}

// P V, added to `mixed` for rows that list the block, to `rest` for the others.
template <class C>
PTX_FN void split_product(uint32_t value_tile, const float* value_scale, const BiasedZero& zero,
                          const Probabilities<C>& p, const StepWeights& both, const Listed& listed,
                          LoopState<C>& mixed, LoopState<C>& rest) {
  StepWeights to_mixed[1] = {weights_where(both, listed, true)};
  StepWeights to_rest[1] = {weights_where(both, listed, false)};
  if constexpr (C::pv == Number::s8) {
    multiply_takes<C>(value_scale[0], to_mixed);
    multiply_takes<C>(value_scale[0], to_rest);
  } else {
    rescale<C>(to_mixed, mixed.out);
    rescale<C>(to_rest, rest.out);
    if constexpr (C::unpacks_values) {
      multiply_takes<C>(value_product_scale<C>, to_mixed);
      multiply_takes<C>(value_product_scale<C>, to_rest);
    }
  }
#pragma unroll
  for (uint32_t d = 0; d < C::head_dim / 8; d += 2) {
    hold_loads_back(d > 0 && d % LoadOrder<C>::channel_fragments == 0);
    ValueFragments<C> fragments[Layout<C>::value_tiles];
    load_values<C>(value_tile, d, fragments);
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
      Accumulator<C::pv> c[4] = {};
#pragma unroll
      for (int v = 0; v < Layout<C>::value_tiles; v++) {
        multiply_values<C>(v, zero, c, p, fragments[v].b[half]);
      }
      if constexpr (is_integer(C::pv)) {
        float2 scale{};
        if constexpr (C::pv == Number::s4) {
          scale =
              *reinterpret_cast<const float2*>(value_scale + (d + half) * 8 + threadIdx.x % 4 * 2);
        }
        add_product<C>(c, to_mixed[0].keep, to_mixed[0].take, scale, mixed.out[0][d + half]);
        add_product<C>(c, to_rest[0].keep, to_rest[0].take, scale, rest.out[0][d + half]);
      } else {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          mixed.out[0][d + half][i] = fmaf(c[i], to_mixed[0].take[i / 2], mixed.out[0][d + half][i]);
          rest.out[0][d + half][i] = fmaf(c[i], to_rest[0].take[i / 2], rest.out[0][d + half][i]);
        }
      }
    }
  }
}

// What the logits of the lane's rows lack where keys are less their block's mean.
template <class C>
PTX_FN void block_offsets(const AttentionParams& p, int unit, int block, uint32_t query_tile,
                          const float* lane_factors, const BiasedZero& zero, float (&offset)[2]) {
  const int64_t first = int64_t{unit} * mean_blocks(p.geometry.key_blocks, C::step_keys);
  const float scale = __ldg(p.smoothed.mean_scale + first + block / C::step_keys);
  int32_t c[1][4];
  // All columns are this block.
  multiply_means<C>(query_tile,
                    p.smoothed.mean + (first * C::step_keys + block) * C::head_dim, zero, c);
#pragma unroll
  for (int row = 0; row < 2; row++) {
    offset[row] = ptx::float_from_biased(c[0][2 * row]) * (lane_factors[row * 8] * scale);
  }
}

// A step's factors, and its products as floats. Each key has its weight in them.
template <class C>
PTX_FN void weighed_products(uint32_t query_tile, const float* lane_factors, uint32_t key_tile,
                             const StepExtras<C>& extras, const BiasedZero& zero,
                             float (&factor)[2], float (&x)[key_fragments<C>][4]) {
  const float key_scale = is_integer(C::qk) ? extras.key_scale * score_scale<C> : 1.0f;
  const SomeKeys<C> keys = some_keys<C>(extras.weights.absent[0], zero);
  Scores<C> scores;
  score_product<C>(query_tile, key_tile, zero, keys, scores);
  factor[0] = ptx::maximum_or_nan(lane_factors[0] * key_scale, least_factor);
  factor[1] = ptx::maximum_or_nan(lane_factors[8] * key_scale, least_factor);
  to_floats<C>(scores[0], keys, x);
  weigh_last_key<C>(extras.weights, factor, x);
}

// One span of tokens. `offset`: of smoothed keys.
template <class C, bool Smoothed>
PTX_FN void attend_tokens(uint32_t query_tile, const float* lane_factors, uint32_t key_tile,
                          const StepExtras<C>& extras, const BiasedZero& zero,
                          const Listed& listed, const float (&offset)[2], LoopState<C>& mixed,
                          LoopState<C>& rest) {
  float factor[2], x[key_fragments<C>][4];
  weighed_products<C>(query_tile, lane_factors, key_tile, extras, zero, factor, x);
  RowState state;
#pragma unroll
  for (int row = 0; row < 2; row++) {
    const bool in_mixed = listed.row[row];
    state.maximum[row] = in_mixed ? mixed.rows[0].maximum[row] : rest.rows[0].maximum[row];
    state.sum[row] = in_mixed ? mixed.rows[0].sum[row] : rest.rows[0].sum[row];
  }
  StepWeights weights;
  if constexpr (Smoothed) {
#pragma unroll
    for (int n = 0; n < key_fragments<C>; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) x[n][i] *= factor[i / 2];
    }
    weights = exponentiate_logits<C>(x, offset, state);
  } else {
    weights = exponentiate<C>(x, factor, 0.0f, state);
  }
  const Probabilities<C> p = pack_probabilities<C>(x, weights, state);
#pragma unroll
  for (int row = 0; row < 2; row++) {
    const bool in_mixed = listed.row[row];
    mixed.rows[0].maximum[row] = in_mixed ? state.maximum[row] : mixed.rows[0].maximum[row];
    mixed.rows[0].sum[row] = in_mixed ? state.sum[row] : mixed.rows[0].sum[row];
    rest.rows[0].maximum[row] = in_mixed ? rest.rows[0].maximum[row] : state.maximum[row];
    rest.rows[0].sum[row] = in_mixed ? rest.rows[0].sum[row] : state.sum[row];
  }
  const uint32_t value_tile = key_tile + static_cast<uint32_t>(offsetof(Slot<C>, value));
  split_product<C>(value_tile, extras.value_scale, zero, p, weights, listed, mixed, rest);
}

// After the logits of a step became P: a row that attends nothing in it has no P.
template <class C>
PTX_FN void clear_rows(const bool (&attends)[2], float (&x)[key_fragments<C>][4]) {
#pragma unroll
  for (int n = 0; n < key_fragments<C>; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) x[n][i] = attends[i / 2] ? x[n][i] : 0.0f;
  }
}

// One span of coarse summaries. `covered`: for each row, the bits of its blocks that have none.
template <class C>
PTX_FN void attend_coarse(uint32_t query_tile, const float* lane_factors, uint32_t key_tile,
                          const StepExtras<C>& extras, const BiasedZero& zero,
                          const uint32_t (&covered)[2][C::step_keys / 32],
                          const bool (&attends)[2], LoopState<C>& mixed) {
  float factor[2], x[key_fragments<C>][4];
  weighed_products<C>(query_tile, lane_factors, key_tile, extras, zero, factor, x);
#pragma unroll
  for (int n = 0; n < key_fragments<C>; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int bit = n % 4 * 8 + static_cast<int>(threadIdx.x % 4) * 2 + i % 2;
      if ((covered[i / 2][n / 4] >> bit & 1u) != 0) x[n][i] = absent_product;
    }
  }
  StepWeights weights[1] = {
      exponentiate<C, true>(x, factor, extras.weights.log2_tokens, mixed.rows[0])};
  clear_rows<C>(attends, x);
  Probabilities<C> p[1] = {pack_probabilities<C>(x, weights[0], mixed.rows[0])};
  const uint32_t value_tile = key_tile + static_cast<uint32_t>(offsetof(Slot<C>, value));
  value_product<C>(value_tile, extras.value_scale, zero, p, weights, mixed.out);
}

// Which of the 16 groups of a step each of a lane's two rows attends.
template <class C>
struct HideOthers {
  using X = float[key_fragments<FineVariant<C>>][4];
  uint32_t fine[2];

  __device__ __forceinline__ void logits(X& x) const {
#pragma unroll
    for (int n = 0; n < key_fragments<FineVariant<C>>; n++) {
      const int group = n / 2 * 4 + static_cast<int>(threadIdx.x % 4);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if ((fine[i / 2] >> group & 1u) == 0) x[n][i] = lowest_logit;
      }
    }
  }
  __device__ __forceinline__ void probabilities(X& x) const {
    clear_rows<FineVariant<C>>({fine[0] != 0, fine[1] != 0}, x);
  }
};

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
  const int index = static_cast<int>(blockIdx.y), lane = static_cast<int>(threadIdx.x % 32);
  const int group = g.heads / g.kv_heads, first_block = static_cast<int>(blockIdx.x) * C::tile_rows;
  const Unit unit = unit_at(g, index / group);
  const int head = unit.kv_head * group + index % group;
  const int length = length_of(g, attention.plan, unit.sample);
  if (__ldg(attention.plan.corrected_heads + head) == 0) return;
  if (first_block * g.block_q >= length) return;
  const Extent e = extent_of<C::step_keys>(g, length);
  const int bin = min(max(__ldg(attention.plan.mask_bin + unit.sample), 0), g.bins - 1);
  const int lane_block =
      first_block + static_cast<int>(threadIdx.x) / 32 * C::rows_per_warp + lane / 4;
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

  const float* scale =
      affine_row(g, attention.plan, PARO_VALUE_SCALE, unit.kv_head, C::head_dim);
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

// `Smoothed`: C has 8-bit keys, of which those less their block's mean need an offset.
template <class C, bool Smoothed>
__global__ void __launch_bounds__(C::compute_threads, 2) correct_means(const CorrectionParams p) {
  correct_query_blocks<C, Smoothed>(p);
}

}  // namespace paro::kernels::sparse_attention::sm80
