// Variants of smoothed kernels, and the shared memory of a thread block.
#pragma once

#include "kernels/sparse_attention/sm80/kernel.cuh"

namespace paro::kernels::sparse_attention::sm80 {

// Blocks whose offsets are computed at once.
constexpr int offset_blocks = 8;

// Spans listed ahead: those of two times eight steps, and up to 31 more of a mask word.
constexpr int listed_spans = 64;

// The variant of a smoothed kernel, whose thread blocks take one query block each.
template <class Base>
struct OneQueryBlock : Base {
  static constexpr bool is_smoothed = true;
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
  float bias[V::step_keys / 4][4];   // SmoothingParams::bias
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

// How many words of the mask row are listed, and how many spans that is.
struct Listing {
  int words, spans;
};

// What a warp keeps of the next steps: offsets[step][row % 8][row / 8] and scales of 8-bit values.
template <class V>
struct alignas(16) StepFactors {
  float offset[offset_blocks][8][V::rows_per_warp / 8];
  float value_scale[offset_blocks];
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
  StepFactors<V> steps[V::block_q / V::rows_per_warp];  // of each warp
  Listing listing;  // what is in `spans`
  int32_t spans[listed_spans];  // of step i, number i % listed_spans
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

}  // namespace paro::kernels::sparse_attention::sm80
