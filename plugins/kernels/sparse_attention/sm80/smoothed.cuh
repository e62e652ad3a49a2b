// Stage 2 of smoothed calls. A logit of a listed key is the sum of three products:
//
//     s4(q - q_I) . s4(k - k_J)   in the hot loop, with a scale for each row and for each key
//     q_I . s8(k - k_J)           the key's bias, which smoothing/key_biases.cuh has computed
//     s8(q) . s8(k_J)             the row's offset, the same for all keys of a block
//
// An offset joins the maximum of its row and step, not the logits. The offsets of eight blocks are
// one product, since an instruction has eight columns. Summary tokens have 8-bit keys, and meet the
// 8-bit query tile.
#pragma once

#include "kernels/rotate.cuh"
#include "kernels/sparse_attention/sm80/kernel.cuh"
#include "kernels/sparse_attention/sm80/offsets.cuh"

namespace paro::kernels::sparse_attention::sm80 {

// Blocks whose offsets are computed at once.
constexpr int offset_blocks = 8;

// The variant of a smoothed kernel, whose thread blocks take one query block each.
template <class Base>
struct OneQueryBlock : Base {
  static constexpr int tile_rows = Base::block_q, query_blocks = 1;
  static constexpr int compute_threads = Base::block_q / Base::rows_per_warp * 32;
};

// That of listed keys, and that of summary tokens.
template <class V>
using FourBits = OneQueryBlock<V>;
template <class V>
using EightBits = OneQueryBlock<
    Variant<V::head_dim, V::block_q, V::step_keys, Number::s8, V::pv, V::four_bit>>;

// What the logits of a step's keys are made with, copied as it lies in the workspace.
template <class V>
struct alignas(16) KeyFactors {
  float scale[V::step_keys / 2][4];  // SmoothedKeys::key_scale
  float bias[V::step_keys];
};

// Where the tensors of the thread block start: of its unit, and of its query block. In shared memory,
// since registers are few and the divisions that lead to these addresses many.
struct SmoothedSources {
  const uint8_t* key;        // of span 0, as all of these
  const uint8_t* value;
  const float* value_scale;
  const float* key_scale;
  const float* bias;
  const uint8_t* mean;
  const float* mean_scale;
};

template <class V>
struct alignas(16) SmoothedMemory {
  using Eight = EightBits<V>;
  static_assert(V::qk == Number::s4 && is_integer(V::pv), "the precisions that smoothing has");

  struct Tiles {
    uint8_t query[Layout<Eight>::query_bytes];
    uint8_t residual[Layout<V>::query_bytes];  // of the query less its mean
    // Two slots of listed keys; then one of summary tokens, of which there are few; then those of
    // fine summaries.
    Slot<V> slots[2];
  };
  static_assert(sizeof(Slot<Eight>) <= sizeof(Tiles::slots), "a step of summary tokens fits");
  static constexpr int fine_slots = fine_slots_in<Eight>(sizeof(Tiles::slots));
  static_assert(fine_slots * sizeof(Slot<FineVariant<Eight>>) <= sizeof(Tiles::slots),
                "a step of fine summaries fits");

  union {
    Tiles tiles;
    uint8_t output[output_bytes<V>];  // after the last step
  };
  float row_factors[V::block_q];       // of the 8-bit tile
  float residual_factors[V::block_q];  // of the 4-bit tile
  // Of each warp: [block][row % 8][row / 8].
  float offsets[V::block_q / V::rows_per_warp][offset_blocks][8][V::rows_per_warp / 8];
  KeyFactors<V> factors[2];
  StepExtras<Eight> extras[2];
  FineExtras<1> fine[fine_slots];
  Work work;
  SmoothedSources sources;
  int32_t listed;  // spans of tokens: plain ones and the partial one
  // The words of the SpanMask follow.
};

template <class V>
constexpr int smoothed_blocks_an_sm = [] {
  constexpr int by_registers = 256 / V::compute_threads;
  constexpr int by_memory = 228 * 1024 / (sizeof(SmoothedMemory<V>) + 1024);
  return by_registers < by_memory ? by_registers : by_memory;
}();

// The quantized scale of eight channels of a row, of which D / 8 consecutive lanes have a part.
template <int D>
DEVICE_FN Scale scale_of_row(const Channels8& x, float levels) {
  uint32_t largest = largest_magnitude(x);
#pragma unroll
  for (int distance = 1; distance < D / 8; distance *= 2) {
    largest = max(largest, __shfl_xor_sync(~0u, largest, distance));
  }
  return scale_of(largest, levels);
}

// Fills both query tiles and their factors, as load_query does.
template <class V>
DEVICE_FN void load_smoothed_query(const AttentionParams& p, const QueryBlock& q,
                                   SmoothedMemory<V>& shared) {
  using Eight = EightBits<V>;
  constexpr int lanes = V::head_dim / 8, rows_per_pass = V::compute_threads / lanes;
  const Geometry& g = p.geometry;
  const int thread = static_cast<int>(threadIdx.x), first_channel = thread % lanes * 8;
  const auto* source = static_cast<const uint16_t*>(p.query);
  const Rotation rotation =
      Rotation::of(p.plan, q.unit.kv_head, first_channel, V::head_dim);
  const float* equalizer =
      affine_row(g, p.plan, PARO_EQUALIZER, q.unit.kv_head, V::head_dim) + first_channel;
  const int64_t mean_row =
      static_cast<int64_t>(launch_head(g, q.unit, q.head)) * g.query_blocks + q.index;
  const Channels8 mean = channels_from_16bit(
      __ldg(reinterpret_cast<const uint4*>(p.mean_query + mean_row * V::head_dim + first_channel)),
      p.is_bfloat16);
#pragma unroll 1
  for (int row = thread / lanes; row < V::block_q; row += rows_per_pass) {
    const int position = q.index * V::block_q + row;
    uint4 raw = {};
    if (position < q.length) {
      const int token = token_at(g, q.order, position);
      raw = __ldg(reinterpret_cast<const uint4*>(
          source + element_at(g, q, token, V::head_dim) + first_channel));
    }
    Channels8 x = channels_from_16bit(raw, p.is_bfloat16);
#pragma unroll
    for (int i = 0; i < 8; i++) x.x[i] = __fmul_rn(x.x[i], __ldg(equalizer + i));
    rotate<V::head_dim>(rotation, x);
    const Scale scale = scale_of_row<V::head_dim>(x, levels_of(Number::s8));
    store_query_codes<Eight>(shared.tiles.query, row, first_channel, scaled(x, scale.inverse));
#pragma unroll
    for (int i = 0; i < 8; i++) x.x[i] = __fadd_rn(x.x[i], -mean.x[i]);
    const Scale residual = scale_of_row<V::head_dim>(x, levels_of(Number::s4));
    store_query_codes<V>(shared.tiles.residual, row, first_channel, scaled(x, residual.inverse));
    if (first_channel == 0) {
      shared.row_factors[row] = scale.scale * p.logit_scale;
      shared.residual_factors[row] = residual.scale * p.logit_scale * score_scale<V>;
    }
  }
}

template <class V>
DEVICE_FN SmoothedSources sources_of(const AttentionParams& p, const QueryBlock& q) {
  using L = Layout<V>;
  const Geometry& g = p.geometry;
  const int64_t unit = q.unit.index, first = first_prepared_block(g, q.unit.index);
  const int64_t row =
      static_cast<int64_t>(launch_head(g, q.unit, q.head)) * g.query_blocks + q.index;
  const int64_t means = unit * mean_blocks(g.key_blocks, V::step_keys);
  const int value_scales = V::pv == Number::s4 ? V::head_dim : 1;
  return {.key = p.prepared.key + first * L::key_bytes,
          .value = p.prepared.value + first * L::value_bytes,
          .value_scale = p.prepared.value_scale + first * value_scales,
          .key_scale = p.smoothed.key_scale + unit * g.key_blocks * V::step_keys * 2,
          .bias = p.bias + row * g.key_blocks * V::step_keys,
          .mean = p.smoothed.mean + means * V::step_keys * V::head_dim,
          .mean_scale = p.smoothed.mean_scale + means};
}

// Starts the copies of a span's values and their scales.
template <class V>
DEVICE_FN void load_smoothed_values(const SmoothedSources& sources, int span, uint32_t tile,
                                    float* value_scale) {
  using L = Layout<V>;
  const int thread = static_cast<int>(threadIdx.x);
  copy_tile<L::value_row_bytes, L::value_tiles * L::value_rows, V::compute_threads>(
      tile, sources.value + static_cast<int64_t>(span) * L::value_bytes);
  if (V::pv == Number::s8 && thread == V::compute_threads - 1) {
    ptx::cp_async_small<4>(ptx::shared_u32(value_scale), sources.value_scale + span);
  }
  if (V::pv == Number::s4 && thread < V::head_dim / 4) {
    ptx::cp_async_16(ptx::shared_u32(value_scale) + static_cast<uint32_t>(thread) * 16,
                     sources.value_scale + static_cast<int64_t>(span) * V::head_dim + thread * 4);
  }
}

// Starts the copies of a listed span's tiles and factors.
template <class V>
DEVICE_FN void load_smoothed_step(const SmoothedSources& sources, int span, Slot<V>& slot,
                                  KeyFactors<V>& factors, float* value_scale) {
  using L = Layout<V>;
  copy_tile<L::key_row_bytes, V::step_keys, V::compute_threads>(
      ptx::shared_u32(slot.key), sources.key + static_cast<int64_t>(span) * L::key_bytes);
  load_smoothed_values<V>(sources, span, ptx::shared_u32(slot.value), value_scale);
  // 16 bytes a thread: the scales, then the biases.
  constexpr int scale_copies = V::step_keys / 2, copies = scale_copies + V::step_keys / 4;
  static_assert(copies <= V::compute_threads, "a thread copies one piece");
  const int i = static_cast<int>(threadIdx.x);
  if (i < copies) {
    const bool is_scale = i < scale_copies;
    const float* source = is_scale ? sources.key_scale : sources.bias - scale_copies * 4;
    ptx::cp_async_16(ptx::shared_u32(&factors) + static_cast<uint32_t>(i) * 16,
                     source + int64_t{span} * (is_scale ? V::step_keys * 2 : V::step_keys) + i * 4);
  }
}

// The next eight listed spans, or the `left` that there are: lanes 4 j .. have number j.
DEVICE_FN int next_spans(SpanWalk& walk, int left) {
  int mine = 0;
#pragma unroll 1
  for (int j = 0; j < min(left, offset_blocks); j++) {
    const int span = walk.next_listed();
    if (static_cast<int>(threadIdx.x % 32) / 4 == j) mine = span;
  }
  return mine;
}

// Writes the offsets of the warp's rows for eight blocks: lanes 4 j .. have block `mine` of number
// j. Only the warp itself reads them.
template <class V>
PTX_FN void write_offsets(const SmoothedSources& sources, int mine, uint32_t query_tile,
                          const float* lane_factors, const BiasedZero& zero,
                          float (&offsets)[offset_blocks][8][V::rows_per_warp / 8]) {
  using Eight = EightBits<V>;
  const uint32_t lane = threadIdx.x % 32;
  const float scale = __ldg(sources.mean_scale + mine / V::step_keys);
  int32_t c[row_fragments<V>][4];
  multiply_means<Eight>(query_tile, sources.mean + int64_t{mine} * V::head_dim, zero, c);
  __syncwarp();  // sync: every lane has read the offsets of the blocks before
#pragma unroll
  for (uint32_t j = 0; j < 2; j++) {
    const uint32_t column = lane % 4 * 2 + j;
    const float of_column = __shfl_sync(~0u, scale, static_cast<int>(column * 4));
#pragma unroll
    for (uint32_t a = 0; a < row_fragments<V>; a++) {
#pragma unroll
      for (uint32_t half = 0; half < 2; half++) {
        offsets[column][lane / 4][a * 2 + half] =
            ptx::float_from_biased(c[a][half * 2 + j]) *
            (lane_factors[a * 16 + half * 8] * of_column);
      }
    }
  }
  __syncwarp();  // sync: the offsets are written
}

// Products become logits without their offset. A key's scale has 8 significant bits, so that its
// product with the accumulators' bias is exact, and so is the one FMA that takes both away.
template <class V>
PTX_FN void to_logits(const Scores<V>& scores, const KeyFactors<V>& factors,
                      const float* lane_factors,
                      float (&x)[row_fragments<V>][key_fragments<V>][4]) {
  float factor[row_fragments<V>][2];
#pragma unroll
  for (int a = 0; a < row_fragments<V>; a++) {
    factor[a][0] = lane_factors[a * 16];
    factor[a][1] = lane_factors[a * 16 + 8];
  }
  const int lane = static_cast<int>(threadIdx.x % 4);
#pragma unroll
  for (int n = 0; n < key_fragments<V>; n++) {
    hold_loads_back(V::head_dim == 128 && n > 0 && n % 2 == 0);
    const float4 pair = *reinterpret_cast<const float4*>(factors.scale[n * 4 + lane]);
    const float2 biases = *reinterpret_cast<const float2*>(factors.bias + n * 8 + lane * 2);
    const float scale[2] = {pair.x, pair.y}, taken[2] = {pair.z, pair.w};
    const float bias[2] = {biases.x, biases.y};
#pragma unroll
    for (int a = 0; a < row_fragments<V>; a++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float product =
            fmaf(__int_as_float(scores[a][n][i]), scale[i % 2], taken[i % 2]);
        x[a][n][i] = fmaf(product, factor[a][i / 2], bias[i % 2]);
      }
    }
  }
}

// One step of listed keys. `lane_factors`, `offsets`: of this lane's first row.
template <class V>
PTX_FN void attend_smoothed_step(uint32_t residual_tile, const float* lane_factors,
                                 const float* offsets, uint32_t key_tile, uint32_t value_tile,
                                 const KeyFactors<V>& factors, const float* value_scale,
                                 const BiasedZero& zero, LoopState<EightBits<V>>& state) {
  Probabilities<V> p[row_fragments<V>];
  StepWeights weights[row_fragments<V>];
  float x[row_fragments<V>][key_fragments<V>][4];
  {
    Scores<V> scores;
    score_product<V>(residual_tile, key_tile, zero, AllKeys<V>{}, scores);
    hold_loads_back(LoadOrder<V>::by_scores);
    to_logits<V>(scores, factors, lane_factors, x);
  }
#pragma unroll
  for (int a = 0; a < row_fragments<V>; a++) {
    const float offset[2] = {offsets[a * 2], offsets[a * 2 + 1]};
    weights[a] = exponentiate_logits<V>(x[a], offset, state.rows[a]);
    p[a] = pack_probabilities<V>(x[a], weights[a], state.rows[a]);
    hold_loads_back(LoadOrder<V>::by_softmax);
  }
  value_product<V>(value_tile, value_scale, zero, p, weights, state.out);
}

// All summary tokens that are attended, one span after the other. The slots are free.
template <class V>
PTX_FN void attend_summaries(const SpanMask& mask, SmoothedMemory<V>& shared,
                             uint32_t query_tile,
                             const float* lane_factors, const BiasedZero& zero,
                             LoopState<EightBits<V>>& state) {
  using Eight = EightBits<V>;
  using L = Layout<Eight>;
  const Work& work = shared.work;
  StepExtras<Eight>& extras = shared.extras[0];
  const uint32_t key_tile = ptx::shared_u32(shared.tiles.slots);
  const uint32_t value_tile = key_tile + static_cast<uint32_t>(offsetof(Slot<Eight>, value));
#pragma unroll 1
  for (int group = 0; group < work.extent.summary_spans(); group++) {
    if (!has_summaries(mask, work.extent, group)) continue;
    const int span = work.extent.token_spans + group;
    copy_tile<L::key_row_bytes, V::step_keys, V::compute_threads>(
        key_tile, shared.sources.mean + int64_t{group} * L::key_bytes);
    load_smoothed_values<Eight>(shared.sources, span, value_tile, extras.value_scale);
    if (threadIdx.x == 0) extras.key_scale = __ldg(shared.sources.mean_scale + group);
    const auto attended = [&](int part, int block) {
      return attended_keys(mask, work.extent, span, part, block);
    };
    write_weights<Eight>(work.extent, span, attended, extras.weights);
    ptx::cp_async_wait_all();
    __syncthreads();  // sync: every thread's part of the slot has landed
    attend_step<Eight, false>(query_tile, lane_factors, key_tile, value_tile, extras, zero, state,
                              [] {});
    __syncthreads();  // sync: every thread has left the only slot
  }
}

template <class V>
PTX_FN void attend_smoothed_block(const AttentionParams& p) {
  using Eight = EightBits<V>;
  DYN_SMEM(memory);
  auto& shared = *reinterpret_cast<SmoothedMemory<V>*>(memory);
  const Work& work = shared.work;
  const Geometry& g = p.geometry;
  const bool has_fine = p.plan.fine_mask != nullptr;
  const int word_count = span_mask_words(g.key_blocks, g.block_k, V::step_keys);
  uint32_t* const words = reinterpret_cast<uint32_t*>(&shared + 1);
  const SpanMask mask{words, word_count, words + (has_fine ? word_count : 0)};
  {
    QueryBlock q;
    MaskRows rows;
    if (!find_query_block(p, q, rows)) return;
    const Extent extent = extent_of<V::step_keys>(g, q.length);
    load_span_mask<V::compute_threads>(rows.exact, rows.fine, extent, word_count, words);
    __syncthreads();  // sync: the span mask is written
    const SpanCount count = count_spans(mask, extent);
    if (threadIdx.x == 0) {
      shared.work = {.query = q,
                     .extent = extent,
                     .count = count,
                     .first_block = first_prepared_block(g, q.unit.index)};
      shared.sources = sources_of<V>(p, q);
      const int partial = extent.length >> extent.span_shift;
      const bool has_partial = extent.length % extent.span_keys() != 0 && mask.has(partial);
      shared.listed = count.plain + (has_partial ? 1 : 0);
    }
    __syncthreads();  // sync: `work` is written
  }
  SpanWalk walk(mask);
  int mine = 0;
  const auto load = [&](int step) {
    if (step < shared.listed) {
      const int slot = step % 2, place = step % offset_blocks;
      if (place == 0) mine = next_spans(walk, shared.listed - step);
      load_smoothed_step<V>(shared.sources, __shfl_sync(~0u, mine, place * 4),
                            shared.tiles.slots[slot], shared.factors[slot],
                            shared.extras[slot].value_scale);
    }
    ptx::cp_async_commit();
  };
  load(0);
  load_smoothed_query<V>(p, work.query, shared);
  __syncthreads();  // sync: the query tiles and their factors are written

  LoopState<Eight> state;
  clear_state<Eight>(state);
  const uint32_t query_tile = ptx::shared_u32(shared.tiles.query);
  const uint32_t residual_tile = ptx::shared_u32(shared.tiles.residual);
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t lane_row = warp * V::rows_per_warp + threadIdx.x % 32 / 4;
  const float* lane_factors = shared.row_factors + lane_row;
  BiasedZero zero;
  ptx::hold(zero.registers, ptx::biased_zero);
#pragma unroll 1
  for (int step = 0; step < shared.listed; step++) {
    const int slot = step % 2, place = step % offset_blocks;
    ptx::cp_async_wait_all();
    // sync: every thread's part of this slot has landed, and every thread has left the other one,
    // which the next load overwrites
    __syncthreads();
    if (place == 0) {
      write_offsets<V>(shared.sources, mine, query_tile, lane_factors, zero, shared.offsets[warp]);
    }
    load(step + 1);
    const Slot<V>& tiles = shared.tiles.slots[slot];
    attend_smoothed_step<V>(residual_tile, shared.residual_factors + lane_row,
                            shared.offsets[warp][place][threadIdx.x % 32 / 4],
                            ptx::shared_u32(tiles.key), ptx::shared_u32(tiles.value),
                            shared.factors[slot], shared.extras[slot].value_scale, zero, state);
  }
  ptx::cp_async_wait_all();
  __syncthreads();  // sync: every thread has left the tiles, which summaries or the output overwrite
  attend_summaries<V>(mask, shared, query_tile, lane_factors, zero, state);
  if (has_fine) {
    attend_fine_steps<Eight, SmoothedMemory<V>::fine_slots>(
        p, work, mask, query_tile, lane_factors, ptx::shared_u32(shared.tiles.slots), shared.fine,
        zero, state);
  }
  store_output<Eight>(p, work.query, state.rows, state.out, shared.output);
}

template <class V>
__global__ void __launch_bounds__(V::compute_threads, smoothed_blocks_an_sm<V>)
    sparse_attention_smoothed(const AttentionParams p) {
  check_target<V>();
  attend_smoothed_block<V>(p);
}

}  // namespace paro::kernels::sparse_attention::sm80
