// What a smoothed thread block copies: the spans of its mask row, in order, and their tiles.
#pragma once

#include "kernels/sparse_attention/sm80/smoothed_memory.cuh"

namespace paro::kernels::sparse_attention::sm80 {

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

// Starts the copies of the scales of a span's 4-bit values.
template <class V>
DEVICE_FN void copy_channel_scales(const SmoothedSources& sources, int span, float* value_scale) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread >= V::head_dim / 4) return;
  ptx::cp_async_16(ptx::shared_u32(value_scale) + static_cast<uint32_t>(thread) * 16,
                   sources.value_scale + static_cast<int64_t>(span) * V::head_dim + thread * 4);
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
  if constexpr (V::pv == Number::s4) copy_channel_scales<V>(sources, span, value_scale);
}

template <class V>
using KeyCopy = TileCopy<Layout<V>::key_row_bytes, V::step_keys, V::compute_threads>;
template <class V>
using ValueCopy = TileCopy<Layout<V>::value_row_bytes,
                           Layout<V>::value_tiles * Layout<V>::value_rows, V::compute_threads>;

// What this thread copies of each listed span, and what its lane reads in each step. In registers:
// computed in every step, these are 70 instructions at D = 128 (nvcc 13.0).
struct LanePlaces {
  // Of span 0.
  const uint8_t* key;
  const uint8_t* value;
  const uint8_t* factors;  // null: it copies none
  uint32_t factor_stride;  // bytes of a span
  // In shared memory, of slot 0.
  uint32_t key_to, value_to, factors_to;
  // Loads of matrices, of slot 0.
  uint32_t query_from, key_from, value_from;
  // Bytes in shared.factors and shared.steps.
  uint32_t factors_from, offsets_from;
};

// The compiler computes none of them again.
DEVICE_FN LanePlaces held(const LanePlaces& p) {
  using ptx::computed_here;
  return {.key = computed_here(p.key),
          .value = computed_here(p.value),
          .factors = computed_here(p.factors),
          .factor_stride = computed_here(p.factor_stride),
          .key_to = computed_here(p.key_to),
          .value_to = computed_here(p.value_to),
          .factors_to = computed_here(p.factors_to),
          .query_from = computed_here(p.query_from),
          .key_from = computed_here(p.key_from),
          .value_from = computed_here(p.value_from),
          .factors_from = computed_here(p.factors_from),
          .offsets_from = computed_here(p.offsets_from)};
}

template <class V>
DEVICE_FN LanePlaces lane_places(SmoothedMemory<V>& shared) {
  const SmoothedSources& sources = shared.sources;
  const uint32_t keys = ptx::shared_u32(shared.tiles.slots);
  const uint32_t values = keys + static_cast<uint32_t>(offsetof(Slot<V>, value));
  // 16 bytes a thread: the scales, then the biases.
  constexpr uint32_t scale_copies = V::step_keys / 2, copies = scale_copies + V::step_keys / 4;
  static_assert(copies <= V::compute_threads, "a thread copies one piece");
  const uint32_t thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const bool is_scale = thread < scale_copies;
  const auto* first = reinterpret_cast<const uint8_t*>(is_scale ? sources.key_scale : sources.bias);
  const uint32_t piece = is_scale ? thread : thread - scale_copies;
  const LanePlaces places{.key = sources.key + KeyCopy<V>::first(),
                          .value = sources.value + ValueCopy<V>::first(),
                          .factors = thread < copies ? first + piece * 16 : nullptr,
                          .factor_stride = V::step_keys * (is_scale ? 8u : 4u),
                          .key_to = keys + KeyCopy<V>::place(),
                          .value_to = values + ValueCopy<V>::place(),
                          .factors_to = ptx::shared_u32(shared.factors) + thread * 16,
                          .query_from = ptx::shared_u32(shared.tiles.residual) + query_place<V>(),
                          .key_from = keys + key_place<V>(),
                          .value_from = values + value_place<V>(),
                          .factors_from = lane % 4 * 16,
                          .offsets_from = warp * static_cast<uint32_t>(sizeof(StepFactors<V>)) +
                                              lane / 4 * (V::rows_per_warp / 8) * 4};
  return held(places);
}

// Starts the copies of a listed span's tiles and factors.
template <class V>
DEVICE_FN void load_smoothed_step(const LanePlaces& places, const SmoothedSources& sources,
                                  int span, uint32_t slot, float* value_scale) {
  using L = Layout<V>;
  const uint32_t tiles = slot * static_cast<uint32_t>(sizeof(Slot<V>));
  KeyCopy<V>::start(places.key_to + tiles, places.key + int64_t{span} * L::key_bytes);
  ValueCopy<V>::start(places.value_to + tiles, places.value + int64_t{span} * L::value_bytes);
  if (places.factors != nullptr) {
    ptx::cp_async_16(places.factors_to + slot * static_cast<uint32_t>(sizeof(KeyFactors<V>)),
                     places.factors + int64_t{span} * places.factor_stride);
  }
  if constexpr (V::pv == Number::s4) {
    copy_channel_scales<V>(sources, span, value_scale);
  }
}

// Goes on from `listing` until `wanted` spans are listed, or all. By the first warp.
template <class V>
DEVICE_FN void list_spans(const SpanMask& mask, int wanted, Listing listing,
                          SmoothedMemory<V>& shared) {
  const uint32_t lane = threadIdx.x % 32;
#pragma unroll 1
  while (listing.spans < wanted && listing.words < mask.word_count) {
    const uint32_t bits = mask.listed(listing.words);
    if ((bits >> lane & 1u) != 0) {
      const int before = __popc(bits & ((1u << lane) - 1));
      shared.spans[(listing.spans + before) % listed_spans] =
          listing.words * 32 + static_cast<int>(lane);
    }
    listing.spans += __popc(bits);
    listing.words++;
  }
  __syncwarp();  // sync: every lane has read what this overwrites
  if (lane == 0) shared.listing = listing;
}

}  // namespace paro::kernels::sparse_attention::sm80
