// Shared memory of a thread block, and the ring of slots that cp.async fills with the tiles of K
// and V while earlier slots are computed on.
#pragma once

#include <cstddef>
#include <type_traits>

#include "kernels/sparse_attention/common/span_walk.cuh"
#include "kernels/sparse_attention/common/store_output.cuh"
#include "kernels/sparse_attention/sm80/variant.h"
#include "ptx/cp_async.cuh"

namespace paro::kernels::sparse_attention::sm80 {

// Of a step that is not plain: which of its keys are attended, and what they weigh. A key that
// stands for n tokens has log2(n) added to its logits. All keys of a step stand for as many tokens,
// but for one: the summary of the last block, if the sequence ends inside it.
template <class V>
struct KeyWeights {
  uint32_t absent[V::query_blocks][V::step_keys / 32];
  float log2_tokens;
  int last_key;     // the key of the last block's summary; none: -1
  int last_tokens;  // that it stands for
};

// What a step needs in addition to its tiles. Only copies of 16 bytes need an alignment: without it
// there is room for 188,416 tokens where two thread blocks of 8 bits and D = 128 share 100 KB.
template <class V>
struct StepExtras {
  float key_scale;
  uint32_t attending;  // of several query blocks, bits of those that attend the span
  alignas(V::pv == Number::s4 ? 16 : 4) float value_scale[Layout<V>::value_scales];
  KeyWeights<V> weights;
};

template <class V>
struct Slot {
  uint8_t key[Layout<V>::key_bytes];
  uint8_t value[Layout<V>::value_bytes];
};

// Slots of keys, and one of values. The span of a step is kept here between the loads of its keys
// and of its values: no register is free.
template <class V>
struct StaggeredSlots {
  uint8_t key[Layout<V>::slots][Layout<V>::key_bytes];
  uint8_t value[Layout<V>::value_bytes];
  int32_t span[2];
};

// What the thread block works on. It is in shared memory because registers that no step of the hot
// loop needs would be spilled there.
struct Work {
  QueryBlock query;
  Extent extent;
  SpanCount count;
  int64_t first_block;  // of the unit's prepared key blocks
};

template <class V>
struct Tiles {
  using Slots = typename std::conditional<Layout<V>::staggered, StaggeredSlots<V>,
                                          Slot<V>[Layout<V>::slots]>::type;
  uint8_t query[Layout<V>::query_bytes];
  Slots slots;
};

template <class V>
struct alignas(16) SharedMemory {
  union {
    Tiles<V> tiles;
    uint8_t output[output_bytes<V>];  // after the last step
  };
  float row_factors[V::tile_rows];
  StepExtras<V> extras[Layout<V>::slots];
  Work work;
  // What fine summaries take and the words of the SpanMask follow: mask_words in fine_step.cuh.

  static_assert(offsetof(Tiles<V>, slots) % swizzle_alignment == 0 &&
                    Layout<V>::key_bytes % swizzle_alignment == 0 &&
                    sizeof(Slot<V>) % swizzle_alignment == 0,
                "every tile starts at a whole period of the swizzle");
};

// Thread blocks on an SM with room for them. At 255 registers a thread, two of 128 threads or four
// of 64 fill the register file. The largest SM has 228 KB of shared memory and reserves 1 KB of it
// for each thread block; how many fit every GPU is in sass/resources.csv.
template <class V>
constexpr int blocks_an_sm = [] {
  constexpr int by_registers = 256 / V::compute_threads;
  constexpr int by_memory = 228 * 1024 / (sizeof(SharedMemory<V>) + 1024);
  return by_registers < by_memory ? by_registers : by_memory;
}();

// A dense tile is copied by all threads of the block. A warp takes consecutive bytes, so that what
// one lane copies lies close enough together for the offsets that the instruction can hold.
template <int RowBytes, int Rows, int Threads>
struct TileCopy {
  static constexpr uint32_t pass_bytes = 32 * 16, pass_rows = pass_bytes / RowBytes;
  static constexpr uint32_t passes = RowBytes * Rows / (Threads * 16);
  static_assert(RowBytes * Rows % (Threads * 16) == 0, "every thread copies as many chunks");
  static_assert(pass_rows * passes % 8 == 0 || passes == 1, "a warp starts where the swizzle does");

  // The thread's first bytes, and where they go.
  static __device__ __forceinline__ uint32_t first() {
    return threadIdx.x / 32 * (passes * pass_bytes) + threadIdx.x % 32 * 16;
  }
  static __device__ __forceinline__ uint32_t place() {
    return swizzled_offset<RowBytes>(first() / RowBytes, first() % RowBytes / 16);
  }
  // cp.async of the thread's part: `to` and `from` are the tiles' addresses plus those two.
  static __device__ __forceinline__ void start(uint32_t to, const uint8_t* from) {
#pragma unroll
    for (uint32_t i = 0; i < passes; i++) {
      // Further rows add their part of the permutation, which has no carry, and a constant distance.
      const uint32_t permuted = swizzled_offset<RowBytes>(i * pass_rows % 8, 0) % RowBytes;
      ptx::cp_async_16((to ^ permuted) + i * pass_bytes, from + i * pass_bytes);
    }
  }
};

template <int RowBytes, int Rows, int Threads>
DEVICE_FN void copy_tile(uint32_t tile, const uint8_t* source) {
  using Copy = TileCopy<RowBytes, Rows, Threads>;
  Copy::start(tile + Copy::place(), source + Copy::first());
}

// Starts the copies of a span's K tile and of its scale.
template <class V>
DEVICE_FN void load_keys(const PreparedKeys& keys, const Work& work, int span, uint32_t tile,
                         StepExtras<V>& extras) {
  using L = Layout<V>;
  const int block_shift = work.extent.block_shift;
  const int64_t stored = (work.first_block << block_shift) + span;
  copy_tile<L::key_row_bytes, V::step_keys, V::compute_threads>(tile,
                                                                keys.key + stored * L::key_bytes);
  if (is_integer(V::qk) && threadIdx.x == 0) {
    ptx::cp_async_small<4>(ptx::shared_u32(&extras.key_scale),
                           keys.key_scale + work.first_block + (span >> block_shift));
  }
}

// The same for V.
template <class V>
DEVICE_FN void load_values(const PreparedKeys& keys, const Work& work, int span, uint32_t tile,
                           StepExtras<V>& extras) {
  using L = Layout<V>;
  const int thread = static_cast<int>(threadIdx.x), block_shift = work.extent.block_shift;
  const int64_t block = work.first_block + (span >> block_shift);
  const int64_t stored = (work.first_block << block_shift) + span;
  copy_tile<L::value_row_bytes, L::value_tiles * L::value_rows, V::compute_threads>(
      tile, keys.value + stored * L::value_bytes);
  if (V::pv == Number::s8 && thread == 32) {
    ptx::cp_async_small<4>(ptx::shared_u32(extras.value_scale), keys.value_scale + block);
  }
  if (V::pv == Number::s4 && thread < V::head_dim / 4) {
    ptx::cp_async_16(ptx::shared_u32(extras.value_scale) + static_cast<uint32_t>(thread) * 16,
                     keys.value_scale + block * V::head_dim + thread * 4);
  }
}

// `attended` gives the bits of 32 keys of the span, for each query block.
template <class V, class Attended>
DEVICE_FN void write_weights(const Extent& e, int span, const Attended& attended,
                             KeyWeights<V>& weights) {
  const int thread = static_cast<int>(threadIdx.x);
  constexpr int words = V::step_keys / 32;
  if (thread < V::query_blocks * words) {
    // A division for the only block too costs the hot loop 6 % on sm_80 at D = 128 (nvcc 13.0).
    const int block = V::query_blocks == 1 ? 0 : thread / words;
    const int part = V::query_blocks == 1 ? thread : thread % words;
    weights.absent[block][part] = ~attended(part, block);
  }
  if (thread > 0) return;
  const int group = span - e.token_spans, last_block = e.existing_blocks() - 1;
  const int block_k = e.span_keys() << e.block_shift, rest = e.length - last_block * block_k;
  const bool has_last = rest < block_k && group == last_block >> e.span_shift;
  weights.log2_tokens = static_cast<float>(group < 0 ? 0 : e.span_shift + e.block_shift);
  weights.last_key = has_last ? last_block & (e.span_keys() - 1) : -1;
  weights.last_tokens = rest;
}

// Loads spans in the order of the walk, one slot after the other. A step's slot is its number
// modulo the number of slots.
//
// Where the ring is staggered, load_plain and load_any load keys, and the values of that span
// follow a step later (load_step_values).
template <class V>
struct Ring {
  using L = Layout<V>;
  using Mask = TileMask<V::query_blocks>;
  using Walk = TileWalk<V::query_blocks>;
  static constexpr int key_slot_bytes = L::staggered ? L::key_bytes : int{sizeof(Slot<V>)};

  const PreparedKeys& keys;
  SharedMemory<V>& shared;
  uint32_t first_slot;  // the address of shared.tiles.slots in the shared window

  __device__ __forceinline__ uint32_t key_tile(int step) const {
    return first_slot + static_cast<uint32_t>(step % L::slots * key_slot_bytes);
  }
  __device__ __forceinline__ uint32_t value_tile(int step) const {
    return L::staggered ? first_slot + static_cast<uint32_t>(L::slots * L::key_bytes)
                        : key_tile(step) + static_cast<uint32_t>(offsetof(Slot<V>, value));
  }
  __device__ __forceinline__ StepExtras<V>& extras(int step) const {
    return shared.extras[step % L::slots];
  }
  // Any span; nothing after the last one. Those that are not plain come first.
  __device__ __forceinline__ void load_any(int step, const Mask& mask, Walk& walk) const {
    const Work& work = shared.work;
    // Both load for themselves: with one load for both, the hot loop takes 3 % more instructions at
    // D = 128 (nvcc 13.0).
    if (step < work.count.special()) {
      const int span = walk.next_special(work.extent);
      const auto attended = [&](int part, int block) {
        return attended_keys(mask, work.extent, span, part, block);
      };
      write_weights<V>(work.extent, span, attended, extras(step).weights);
      load(step, span);
    } else if (step < work.count.total) {
      load_plain(step, mask, walk);
    }
    ptx::cp_async_commit();
  }
  // The values of the span whose keys are those of the step; a barrier has followed their load.
  __device__ __forceinline__ void load_step_values(int step) const {
    const int span = shared.tiles.slots.span[step % 2];
    load_values<V>(keys, shared.work, span, value_tile(step), extras(step));
    ptx::cp_async_commit();
  }
  // A span of tokens that all exist.
  __device__ __forceinline__ void load_plain(int step, const Mask& mask, Walk& walk) const {
    const int span = walk.next_listed();
    if (V::query_blocks > 1 && threadIdx.x == 0) {
      uint32_t attending = 0;
#pragma unroll
      for (int block = 0; block < V::query_blocks; block++) {
        attending |= (mask.has(span, block) ? 1u : 0u) << block;
      }
      extras(step).attending = attending;
    }
    load(step, span);
  }
  __device__ __forceinline__ void load(int step, int span) const {
    load_keys<V>(keys, shared.work, span, key_tile(step), extras(step));
    if constexpr (L::staggered) {
      if (threadIdx.x == 0) shared.tiles.slots.span[step % 2] = span;
    } else {
      load_values<V>(keys, shared.work, span, value_tile(step), extras(step));
    }
  }
};

}  // namespace paro::kernels::sparse_attention::sm80
