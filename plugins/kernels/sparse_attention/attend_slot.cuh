// One step of a warp: its query rows against one slot of keys.
#pragma once

#include "kernels/sparse_attention/store_output.cuh"

namespace paro::kernels::sparse_attention {

// What accompanies a stage's tiles.
template <class V>
struct StageExtras {
  float key_scale;
  float padding[3];  // cp.async wants what follows on 16 bytes
  float value_scale[(TileSize<V>::value_scales + 3) / 4 * 4];
  uint8_t tokens[V::step_keys];  // that each key stands for; written for slots that are not plain
};

// A warp's running result.
template <class V>
struct WarpState {
  RowState rows[row_tiles<V>];
  Output<V> out;
};

template <class V>
PTX_FN void clear_state(WarpState<V>& state) {
#pragma unroll
  for (uint32_t tile = 0; tile < row_tiles<V>; tile++) {
#pragma unroll
    for (uint32_t row = 0; row < 2; row++) {
      state.rows[tile].maximum[row] = lowest_logit;
      state.rows[tile].sum[row] = 0.0f;
    }
#pragma unroll
    for (int d = 0; d < V::head_dim / 8; d++) {
#pragma unroll
      for (int i = 0; i < 4; i++) state.out[tile][d][i] = 0.0f;
    }
  }
}

// Products of a 16-row tile as floats. The bias is subtracted rather than left to cancel against
// the maximum: times a large factor its rounding would exceed the distance between codes of P.
template <class V>
PTX_FN void to_floats(const Accumulator<V::qk> (&scores)[key_tiles<V>][4],
                      float (&x)[key_tiles<V>][4]) {
#pragma unroll
  for (int n = 0; n < key_tiles<V>; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if constexpr (is_integer(V::qk)) {
        x[n][i] = ptx::float_from_biased(scores[n][i]);
      } else {
        x[n][i] = scores[n][i];
      }
    }
  }
}

// In a slot that is not plain: x becomes the logits, each with the logarithm of its key's tokens.
template <class V>
PTX_FN void weigh_keys(const uint8_t* tokens, float (&x)[key_tiles<V>][4], float (&factor)[2]) {
#pragma unroll
  for (int n = 0; n < key_tiles<V>; n++) {
#pragma unroll
    for (int column = 0; column < 2; column++) {
      const int count = tokens[n * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + column];
      const float weight = ptx::log2_approx(static_cast<float>(count));
#pragma unroll
      for (int row = 0; row < 2; row++) {
        float& value = x[n][2 * row + column];
        value = count == 0 ? lowest_logit : fmaf(value, factor[row], weight);
      }
    }
  }
  factor[0] = factor[1] = 1.0f;
}

// out *= keep, where any row of the warp has a new maximum.
template <class V>
PTX_FN void rescale(const StepFactors (&factors)[row_tiles<V>], Output<V>& out) {
  bool moved = false;
#pragma unroll
  for (int tile = 0; tile < row_tiles<V>; tile++) {
    moved = moved || factors[tile].keep[0] != 1.0f || factors[tile].keep[1] != 1.0f;
  }
  if (!__any_sync(~0u, moved)) return;
#pragma unroll
  for (int tile = 0; tile < row_tiles<V>; tile++) {
#pragma unroll
    for (int d = 0; d < V::head_dim / 8; d++) {
#pragma unroll
      for (int i = 0; i < 4; i++) out[tile][d][i] *= factors[tile].keep[i / 2];
    }
  }
}

template <class V>
PTX_FN void multiply_takes(float by, StepFactors (&factors)[row_tiles<V>]) {
#pragma unroll
  for (StepFactors& f : factors) {
#pragma unroll
    for (float& take : f.take) take *= by;
  }
}

// out = out * keep + P V * take, for one tile of integer products c. With 8 bits the accumulators'
// bias leaves together with what came before: that rounds by half a unit of c at most, far below
// what V's codes lose (half a code times P's largest, 255). With 4 bits a unit is too much.
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

// B operands of channel tiles d and d + 1, all keys of the step.
template <class V>
PTX_FN void load_values(uint32_t values, uint32_t d,
                        ValueFragments<V> (&fragments)[TileSize<V>::value_tiles]) {
#pragma unroll
  for (int tile = 0; tile < TileSize<V>::value_tiles; tile++) {
    load_value_tile<V>(values + tile * TileSize<V>::value_tile_bytes, d, fragments[tile]);
  }
}

// out = out * keep + P V * take.
template <class V>
PTX_FN void value_product(uint32_t values, const float* value_scale, const BiasedZero& zero,
                          const Probabilities<V> (&p)[row_tiles<V>],
                          StepFactors (&factors)[row_tiles<V>], Output<V>& out) {
  constexpr int value_tiles = TileSize<V>::value_tiles;
  if constexpr (V::pv == Number::s8) {
    multiply_takes<V>(value_scale[0], factors);
  } else {
    rescale<V>(factors, out);
    if constexpr (V::unpacks_values) multiply_takes<V>(value_unit<V>, factors);
  }
#pragma unroll
  for (uint32_t d = 0; d < V::head_dim / 8; d += 2) {
    hold_loads_back(d > 0 && d % LoadOrder<V>::value_tiles == 0);
    ValueFragments<V> fragments[value_tiles];
    load_values<V>(values, d, fragments);
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
      float2 scale{};
      if constexpr (V::pv == Number::s4) {
        scale =
            *reinterpret_cast<const float2*>(value_scale + (d + half) * 8 + threadIdx.x % 4 * 2);
      }
#pragma unroll
      for (int tile = 0; tile < row_tiles<V>; tile++) {
        float (&target)[4] = out[tile][d + half];
        if constexpr (is_integer(V::pv)) {
          int32_t c[4];
#pragma unroll
          for (int v = 0; v < value_tiles; v++) {
            multiply_values<V>(v, zero, c, p[tile], fragments[v].b[half]);
          }
          add_product<V>(c, factors[tile].keep, factors[tile].take, scale, target);
        } else {
          multiply_values<V>(0, zero, target, p[tile], fragments[0].b[half]);
        }
      }
    }
  }
}

// One slot: S, softmax, P V. `row_factor` are the factors of this lane's first row and those after.
template <class V, bool plain>
PTX_FN void attend_slot(uint32_t query_tile, const float* row_factor, uint32_t tiles,
                        const StageExtras<V>& extras, const BiasedZero& zero, WarpState<V>& state) {
  const float key_scale = is_integer(V::qk) ? extras.key_scale * score_unit<V> : 1.0f;
  Probabilities<V> p[row_tiles<V>];
  StepFactors factors[row_tiles<V>];
  Scores<V> scores;
  score_product<V>(query_tile, tiles, zero, scores);
  hold_loads_back(LoadOrder<V>::by_scores);
#pragma unroll
  for (int tile = 0; tile < row_tiles<V>; tile++) {
    float factor[2] = {row_factor[tile * 16] * key_scale, row_factor[tile * 16 + 8] * key_scale};
    float x[key_tiles<V>][4];
    to_floats<V>(scores[tile], x);
    if constexpr (!plain) weigh_keys<V>(extras.tokens, x, factor);
    factors[tile] = exponentiate<V>(x, factor, state.rows[tile]);
    p[tile] = pack_probabilities<V>(x, factors[tile], state.rows[tile]);
    hold_loads_back(LoadOrder<V>::by_softmax);
  }
  value_product<V>(tiles + TileSize<V>::key_bytes, extras.value_scale, zero, p, factors, state.out);
}

}  // namespace paro::kernels::sparse_attention
