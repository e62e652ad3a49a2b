// One step of listed keys of a smoothed warp, and what it needs of eight steps at once.
#pragma once

#include "kernels/sparse_attention/sm80/offsets.cuh"
#include "kernels/sparse_attention/sm80/smoothed_load.cuh"

namespace paro::kernels::sparse_attention::sm80 {

// Writes the offsets of the warp's rows for the next `left` of eight steps, and the scales of their
// values. Only the warp itself reads them.
template <class V>
PTX_FN void write_step_factors(uint32_t thread, int first, int left, const BiasedZero& zero,
                               SmoothedMemory<V>& shared) {
  using Eight = EightBits<V>;
  const SmoothedSources& sources = shared.sources;
  const uint32_t warp = thread / 32, lane = thread % 32;
  StepFactors<V>& steps = shared.steps[warp];
  // Lanes 4 j .. have number j.
  const int number = static_cast<int>(lane / 4);
  const int mine = number < left ? shared.spans[(first + number) % listed_spans] : 0;
  const float* lane_factors = shared.row_factors + warp * V::rows_per_warp + lane / 4;
  const float scale = __ldg(sources.mean_scale + mine / V::step_keys);
  const float value_scale = V::pv == Number::s8 ? __ldg(sources.value_scale + mine) : 0.0f;
  int32_t c[row_fragments<V>][4];
  multiply_means<Eight>(thread, ptx::shared_u32(shared.tiles.query),
                        sources.mean + int64_t{mine} * V::head_dim, zero, c);
  __syncwarp();  // sync: every lane has read what was here before
  if (V::pv == Number::s8 && lane % 4 == 0) steps.value_scale[lane / 4] = value_scale;
#pragma unroll
  for (uint32_t j = 0; j < 2; j++) {
    const uint32_t column = lane % 4 * 2 + j;
    const float of_column = __shfl_sync(~0u, scale, static_cast<int>(column * 4));
#pragma unroll
    for (uint32_t a = 0; a < row_fragments<V>; a++) {
#pragma unroll
      for (uint32_t half = 0; half < 2; half++) {
        steps.offset[column][lane / 4][a * 2 + half] =
            ptx::float_from_biased(c[a][half * 2 + j]) *
            (lane_factors[a * 16 + half * 8] * of_column);
      }
    }
  }
  __syncwarp();  // sync: the factors are written
}

// Products become logits without their offset. A key's scale has 8 significant bits, so that its
// product with the accumulators' bias is exact, and so is the one FMA that takes both away.
// `lane_keys`: this lane's part of the first line of KeyFactors.
template <class V>
PTX_FN void to_logits(const Scores<V>& scores, const float4* lane_keys, const float* lane_factors,
                      float (&x)[row_fragments<V>][key_fragments<V>][4]) {
  float factor[row_fragments<V>][2];
#pragma unroll
  for (int a = 0; a < row_fragments<V>; a++) {
    factor[a][0] = lane_factors[a * 16];
    factor[a][1] = lane_factors[a * 16 + 8];
  }
  float4 biases;
#pragma unroll
  for (int n = 0; n < key_fragments<V>; n++) {
    hold_loads_back(V::head_dim == 128 && n > 0 && n % 4 == 0);
    const float4 pair = lane_keys[n * 4];
    if (n % 2 == 0) biases = lane_keys[V::step_keys / 2 + n * 2];
    const float scale[2] = {pair.x, pair.y}, taken[2] = {pair.z, pair.w};
    const float bias[2] = {n % 2 == 0 ? biases.x : biases.z, n % 2 == 0 ? biases.y : biases.w};
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
PTX_FN void attend_smoothed_step(const LanePlaces& places, const float* lane_factors,
                                 const float* offsets, uint32_t slot, const float4* lane_keys,
                                 const float* value_scale,
                                 const BiasedZero& zero, LoopState<EightBits<V>>& state) {
  const uint32_t tiles = slot * static_cast<uint32_t>(sizeof(Slot<V>));
  Probabilities<V> p[row_fragments<V>];
  StepWeights weights[row_fragments<V>];
  float x[row_fragments<V>][key_fragments<V>][4];
  {
    Scores<V> scores;
    score_product_at<V>(places.query_from, places.key_from + tiles, zero, AllKeys<V>{}, scores);
    hold_loads_back(LoadOrder<V>::by_scores);
    to_logits<V>(scores, lane_keys, lane_factors, x);
  }
#pragma unroll
  for (int a = 0; a < row_fragments<V>; a++) {
    const float offset[2] = {offsets[a * 2], offsets[a * 2 + 1]};
    p[a] = probabilities_of<V>(x[a], offset, weights[a], state.rows[a]);
    hold_loads_back(LoadOrder<V>::by_softmax);
  }
  value_product_at<V>(places.value_from + tiles, value_scale, zero, p, weights, state.out);
}

}  // namespace paro::kernels::sparse_attention::sm80
