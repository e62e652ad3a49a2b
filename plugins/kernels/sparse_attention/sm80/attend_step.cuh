// One step of a warp: S, softmax and P V of its query rows and one span of keys.
#pragma once

#include "kernels/sparse_attention/sm80/ring.cuh"
#include "kernels/sparse_attention/sm80/softmax.cuh"

namespace paro::kernels::sparse_attention::sm80 {

// What a lane carries from step to step.
template <class V>
struct LoopState {
  RowState rows[row_fragments<V>];
  Output<V> out;
};

template <class V>
PTX_FN void clear_state(LoopState<V>& state) {
#pragma unroll
  for (uint32_t a = 0; a < row_fragments<V>; a++) {
#pragma unroll
    for (uint32_t row = 0; row < 2; row++) {
      state.rows[a].maximum[row] = lowest_logit;
      state.rows[a].sum[row] = 0.0f;
    }
#pragma unroll
    for (int d = 0; d < V::head_dim / 8; d++) {
#pragma unroll
      for (int i = 0; i < 4; i++) state.out[a][d][i] = 0.0f;
    }
  }
}

// Products of 16 rows as floats.
template <class V, class Keys>
PTX_FN void to_floats(const Accumulator<V::qk> (&scores)[key_fragments<V>][4], const Keys& keys,
                      float (&x)[key_fragments<V>][4]) {
#pragma unroll
  for (int n = 0; n < key_fragments<V>; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if constexpr (is_integer(V::qk)) {
        x[n][i] = __int_as_float(scores[n][i]) + keys.addend(n, i % 2);
      } else {
        x[n][i] = scores[n][i];
      }
    }
  }
}

// Adds to the products of the last block's summary what its logits lack, if it is in the step and
// the block is not full. `factor` is at least least_factor.
template <class V>
PTX_FN void weigh_last_key(const KeyWeights<V>& weights, const float (&factor)[2],
                           float (&x)[key_fragments<V>][4]) {
  if (weights.last_key < 0) return;
  const float lack =
      ptx::log2_approx(static_cast<float>(weights.last_tokens)) - weights.log2_tokens;
  const float lacks[2] = {__fdividef(lack, factor[0]), __fdividef(lack, factor[1])};
  const int column = weights.last_key - static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int n = 0; n < key_fragments<V>; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (column == n * 8 + i % 2) x[n][i] += lacks[i / 2];
    }
  }
}

// out *= keep, if any row of the warp has a new maximum.
template <class V>
PTX_FN void rescale(const StepWeights (&weights)[row_fragments<V>], Output<V>& out) {
  bool moved = false;
#pragma unroll
  for (int a = 0; a < row_fragments<V>; a++) {
    moved = moved || weights[a].keep[0] != 1.0f || weights[a].keep[1] != 1.0f;
  }
  if (!__any_sync(~0u, moved)) return;
#pragma unroll
  for (int a = 0; a < row_fragments<V>; a++) {
#pragma unroll
    for (int d = 0; d < V::head_dim / 8; d++) {
#pragma unroll
      for (int i = 0; i < 4; i++) out[a][d][i] *= weights[a].keep[i / 2];
    }
  }
}

template <class V>
PTX_FN void multiply_takes(float by, StepWeights (&weights)[row_fragments<V>]) {
#pragma unroll
  for (StepWeights& w : weights) {
#pragma unroll
    for (float& take : w.take) take *= by;
  }
}

// out = out * keep + P V * take, for one fragment of integer products c. With 8 bits one FMA
// subtracts the accumulators' bias and scales the old output. That rounds by at most 0.5 in c, far
// below the error of V's codes (half a code times P's largest, 255). With 4 bits that would be too
// much.
template <class V>
PTX_FN void add_product(const int32_t (&c)[4], const float (&keep)[2], const float (&take)[2],
                        float2 scale, float (&out)[4]) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float weight =
        V::pv == Number::s8 ? take[i / 2] : take[i / 2] * (i % 2 == 0 ? scale.x : scale.y);
    if constexpr (V::pv == Number::s8) {
      out[i] =
          fmaf(__int_as_float(c[i]), weight, fmaf(out[i], keep[i / 2], -ptx::bias_value * weight));
    } else {
      out[i] = fmaf(ptx::float_from_biased(c[i]), weight, out[i]);
    }
  }
}

// B operands of channel fragments d and d + 1, all keys of the step. `start`: the tile plus the
// lane's place in it.
template <class V>
PTX_FN void load_values_at(uint32_t start, uint32_t d,
                           ValueFragments<V> (&fragments)[Layout<V>::value_tiles]) {
#pragma unroll
  for (int v = 0; v < Layout<V>::value_tiles; v++) {
    load_value_tile<V>(start + v * Layout<V>::value_tile_bytes, d, fragments[v]);
  }
}

template <class V>
PTX_FN void load_values(uint32_t value_tile, uint32_t d,
                        ValueFragments<V> (&fragments)[Layout<V>::value_tiles]) {
  load_values_at<V>(value_tile + value_place<V>(), d, fragments);
}

// out = out * keep + P V * take. `start`: as of load_values_at.
template <class V>
PTX_FN void value_product_at(uint32_t start, const float* value_scale, const BiasedZero& zero,
                          const Probabilities<V> (&p)[row_fragments<V>],
                          StepWeights (&weights)[row_fragments<V>], Output<V>& out) {
  constexpr int value_tiles = Layout<V>::value_tiles;
  if constexpr (V::pv == Number::s8) {
    multiply_takes<V>(value_scale[0], weights);
  } else {
    rescale<V>(weights, out);
    if constexpr (V::unpacks_values) multiply_takes<V>(value_product_scale<V>, weights);
  }
#pragma unroll
  for (uint32_t d = 0; d < V::head_dim / 8; d += 2) {
    hold_loads_back(d > 0 && d % LoadOrder<V>::channel_fragments == 0);
    ValueFragments<V> fragments[value_tiles];
    load_values_at<V>(start, d, fragments);
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
      float2 scale{};
      if constexpr (V::pv == Number::s4) {
        scale =
            *reinterpret_cast<const float2*>(value_scale + (d + half) * 8 + threadIdx.x % 4 * 2);
      }
#pragma unroll
      for (int a = 0; a < row_fragments<V>; a++) {
        float (&target)[4] = out[a][d + half];
        if constexpr (is_integer(V::pv)) {
          int32_t c[4];
#pragma unroll
          for (int v = 0; v < value_tiles; v++) {
            multiply_values<V>(v, zero, c, p[a], fragments[v].b[half]);
          }
          add_product<V>(c, weights[a].keep, weights[a].take, scale, target);
        } else {
          multiply_values<V>(0, zero, target, p[a], fragments[0].b[half]);
        }
      }
    }
  }
}

template <class V>
PTX_FN void value_product(uint32_t value_tile, const float* value_scale, const BiasedZero& zero,
                          const Probabilities<V> (&p)[row_fragments<V>],
                          StepWeights (&weights)[row_fragments<V>], Output<V>& out) {
  value_product_at<V>(value_tile + value_place<V>(), value_scale, zero, p, weights, out);
}

// The tile's query block that the warp's rows are of.
template <class V>
PTX_FN uint32_t own_block() {
  return V::query_blocks == 1 ? 0 : threadIdx.x / (V::compute_threads / V::query_blocks);
}

// Whether the warp's query block attends the span of a step: what a warp does not, it skips.
template <class V, bool plain>
PTX_FN bool attends_span(const StepExtras<V>& extras) {
  if constexpr (V::query_blocks == 1) return true;
  if constexpr (plain) return (extras.attending >> own_block<V>() & 1u) != 0;
  uint32_t absent = ~0u;
#pragma unroll
  for (int i = 0; i < V::step_keys / 32; i++) absent &= extras.weights.absent[own_block<V>()][i];
  return absent != ~0u;
}

// One step. `lane_factors`: the row factors of this lane's first row and of those after it.
// `before_values` runs before V is read, also where the warp skips the step: it may wait for all
// warps.
template <class V, bool plain, class BeforeValues>
PTX_FN void attend_step(uint32_t query_tile, const float* lane_factors, uint32_t key_tile,
                        uint32_t value_tile, const StepExtras<V>& extras, const BiasedZero& zero,
                        LoopState<V>& state, const BeforeValues& before_values) {
  Probabilities<V> p[row_fragments<V>];
  StepWeights weights[row_fragments<V>];
  const bool attends = attends_span<V, plain>(extras);
  if (attends) {
    const float key_scale = is_integer(V::qk) ? extras.key_scale * score_scale<V> : 1.0f;
    const auto keys = [&] {
      if constexpr (plain) {
        return AllKeys<V>{};
      } else {
        return some_keys<V>(extras.weights.absent[own_block<V>()], zero);
      }
    }();
    Scores<V> scores;
    score_product<V>(query_tile, key_tile, zero, keys, scores);
    hold_loads_back(LoadOrder<V>::by_scores);
#pragma unroll
    for (int a = 0; a < row_fragments<V>; a++) {
      float factor[2] = {lane_factors[a * 16] * key_scale, lane_factors[a * 16 + 8] * key_scale};
      float bias = 0.0f, x[key_fragments<V>][4];
      to_floats<V>(scores[a], keys, x);
      if constexpr (!plain) {
        factor[0] = ptx::maximum_or_nan(factor[0], least_factor);
        factor[1] = ptx::maximum_or_nan(factor[1], least_factor);
        weigh_last_key<V>(extras.weights, factor, x);
        bias = extras.weights.log2_tokens;
      }
      weights[a] = exponentiate<V, !plain>(x, factor, bias, state.rows[a]);
      p[a] = pack_probabilities<V>(x, weights[a], state.rows[a]);
      hold_loads_back(LoadOrder<V>::by_softmax);
    }
  }
  before_values();
  if (attends) {
    value_product<V>(value_tile, extras.value_scale, zero, p, weights, state.out);
  }
}

}  // namespace paro::kernels::sparse_attention::sm80
