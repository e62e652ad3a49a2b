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

// What a step needs in addition to its tiles. Only copies of 16 bytes need an alignment: without it
// there is room for 147,456 tokens where two thread blocks of 8 bits and D = 128 share 100 KB.
template <class V>
struct StepExtras {
  float key_scale;
  alignas(V::pv == Number::s4 ? 16 : 4) float value_scale[Layout<V>::value_scales];
  uint8_t tokens[V::step_keys];  // that each key stands for; written for steps that are not plain
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
  uint8_t key[Layout<V>::key_slots][Layout<V>::key_bytes];
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
  float row_factors[V::block_q];
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

// cp.async of a dense tile by all threads of the block. A warp takes consecutive bytes, so that
// what one lane copies lies close enough together for the offsets that the instruction can hold.
template <int RowBytes, int Rows, int Threads>
DEVICE_FN void copy_tile(uint32_t tile, const uint8_t* source) {
  constexpr uint32_t pass_bytes = 32 * 16, pass_rows = pass_bytes / RowBytes;
  constexpr uint32_t passes = RowBytes * Rows / (Threads * 16);
  static_assert(RowBytes * Rows % (Threads * 16) == 0, "every thread copies as many chunks");
  static_assert(pass_rows * passes % 8 == 0 || passes == 1, "a warp starts where the swizzle does");
  const uint32_t first = threadIdx.x / 32 * (passes * pass_bytes) + threadIdx.x % 32 * 16;
  const uint32_t to = tile + swizzled_offset<RowBytes>(first / RowBytes, first % RowBytes / 16);
#pragma unroll
  for (uint32_t i = 0; i < passes; i++) {
    // Further rows add their part of the permutation, which has no carry, and a constant distance.
    const uint32_t permuted = swizzled_offset<RowBytes>(i * pass_rows % 8, 0) % RowBytes;
    ptx::cp_async_16((to ^ permuted) + i * pass_bytes, source + first + i * pass_bytes);
  }
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

// Writes how many tokens each key of a span stands for.
template <class V>
DEVICE_FN void write_tokens(const SpanMask& mask, const Extent& extent, int span, uint8_t* tokens) {
#pragma unroll
  for (int i = 0; i < V::step_keys; i += V::compute_threads) {
    const int column = i + static_cast<int>(threadIdx.x);
    if (column >= V::step_keys) break;
    tokens[column] = static_cast<uint8_t>(token_count(mask, extent, span, column));
  }
}

// Loads spans in the order of the walk, one slot after the other. A step's slot is its number
// modulo the number of slots.
//
// Where the ring is staggered, load_plain and load_any load keys, and the values of that span
// follow a step later (load_step_values).
template <class V>
struct Ring {
  using L = Layout<V>;
  static constexpr int key_slot_bytes = L::staggered ? L::key_bytes : int{sizeof(Slot<V>)};

  const PreparedKeys& keys;
  SharedMemory<V>& shared;
  uint32_t first_slot;  // the address of shared.tiles.slots in the shared window

  __device__ __forceinline__ uint32_t key_tile(int step) const {
    return first_slot + static_cast<uint32_t>(step % L::key_slots * key_slot_bytes);
  }
  __device__ __forceinline__ uint32_t value_tile(int step) const {
    return L::staggered ? first_slot + static_cast<uint32_t>(L::key_slots * L::key_bytes)
                        : key_tile(step) + static_cast<uint32_t>(offsetof(Slot<V>, value));
  }
  __device__ __forceinline__ StepExtras<V>& extras(int step) const {
    return shared.extras[step % L::slots];
  }
  __device__ __forceinline__ void load_plain(int step, SpanWalk& walk) const {
    load(step, walk.next_listed());
    ptx::cp_async_commit();
  }
  // Any span, plain or not; nothing after the last one.
  __device__ __forceinline__ void load_any(int step, const SpanMask& mask, SpanWalk& walk) const {
    const Work& work = shared.work;
    if (step < work.count.total) {
      const int next = walk.next(work.extent);
      load(step, next);
      write_tokens<V>(mask, work.extent, next, extras(step).tokens);
    }
    ptx::cp_async_commit();
  }
  // The values of the span whose keys are those of the step; a barrier has followed their load.
  __device__ __forceinline__ void load_step_values(int step) const {
    const int span = shared.tiles.slots.span[step % 2];
    load_values<V>(keys, shared.work, span, value_tile(step), extras(step));
    ptx::cp_async_commit();
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
