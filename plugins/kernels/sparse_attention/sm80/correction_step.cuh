// The mean correction: a step of tokens, of coarse summaries, of fine ones.
#pragma once

#include "kernels/sparse_attention/sm80/correction_memory.cuh"
#include "kernels/sparse_attention/sm80/offsets.cuh"

namespace paro::kernels::sparse_attention::sm80 {

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
          float& in_mixed = mixed.out[0][d + half][i];
          float& in_rest = rest.out[0][d + half][i];
          in_mixed = fmaf(c[i], to_mixed[0].take[i / 2], in_mixed);
          in_rest = fmaf(c[i], to_rest[0].take[i / 2], in_rest);
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

}  // namespace paro::kernels::sparse_attention::sm80
