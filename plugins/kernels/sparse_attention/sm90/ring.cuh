// Shared memory of a thread block, and its ring of slots between the producer and the consumers. A
// slot is full when its bytes have landed and its extras are written. It is empty when every
// consumer warp has left it.
#pragma once

#include <cstddef>

#include "kernels/sparse_attention/sm90/variant.h"
#include "kernels/swizzle.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/tma.cuh"
#include "ptx/warp.cuh"

namespace paro::kernels::sparse_attention::sm90 {

// Which loop of the consumers takes a step.
enum class StepKind : int32_t {
  plain,    // every key is one token
  weighed,  // `weight` says what a key stands for
  fine,     // FineExtras say what the groups are
  end,      // no step: the walk is over
};

// What a step needs in addition to its tiles.
template <class V>
struct alignas(16) StepExtras {
  float key_scale[V::blocks_a_step];
  float value_scale[V::blocks_a_step];
  float shift[V::blocks_a_step];  // of a block's logits: 0, or lowest_logit where it is absent
  StepKind kind;
  uint32_t attending;  // bits of the tile's query blocks that attend the step, where it has two
  // For each query block, log2 of the tokens of a key; lowest_logit: absent.
  alignas(8) float weight[V::query_blocks][V::step_keys];
};

// What a step of fine summaries needs. What belongs to group 4 q + i is at [i][q]: a lane needs that
// of one i. A group's share is its value scale relative to the largest of the step.
struct alignas(16) FineExtras {
  float key_scale[4][fine_step_groups / 4];
  float log2_share[4][fine_step_groups / 4];
  float inverse_share[4][fine_step_groups / 4];
  float weight[fine_step_keys];  // as in StepExtras
  float value_scale;             // the largest of the step
};

template <class V>
struct Slot {
  uint8_t key[V::blocks_a_step][Layout<V>::block_bytes];
  uint8_t value[V::blocks_a_step][Layout<V>::block_bytes];
};

template <class V>
struct alignas(16) SharedMemory {
  uint8_t query[Layout<V>::query_bytes];
  union {
    Slot<V> slots[Layout<V>::slots];
    uint8_t output[output_bytes<V>];  // after the last step
  };
  StepExtras<V> extras[Layout<V>::slots];
  float row_factors[V::tile_rows];
  uint64_t full[Layout<V>::slots];
  uint64_t empty[Layout<V>::slots];
  // Here because registers that no step needs would be spilled within the steps.
  QueryBlock work;
  // Where there are fine summaries, their extras follow.
  __device__ __forceinline__ FineExtras* fine_extras() {
    return reinterpret_cast<FineExtras*>(this + 1);
  }
  // The words of the SpanMask are last. Their number depends on the sequence.
  template <bool Fine>
  __device__ __forceinline__ uint32_t* span_mask() {
    return reinterpret_cast<uint32_t*>(fine_extras() + (Fine ? Layout<V>::slots : 0));
  }

  static_assert(sizeof(query) % swizzle_alignment == 0 &&
                    Layout<V>::value_tile_bytes % swizzle_alignment == 0 &&
                    sizeof(Slot<V>) == Layout<V>::slot_bytes,
                "every tile starts at a whole period of the swizzle");
};

#if PARO_HAS_WGMMA

// A position on the way around the ring. The parity alternates with every round.
template <class V>
struct RingPlace {
  int slot = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    if (++slot == Layout<V>::slots) {
      slot = 0;
      parity ^= 1;
    }
  }
};

template <class V>
struct Ring {
  SharedMemory<V>& shared;
  uint32_t base;  // the address of `shared` in the shared window

  __device__ __forceinline__ uint32_t query_tile() const { return base; }
  __device__ __forceinline__ uint32_t key_tile(int slot) const {
    constexpr auto first = static_cast<int>(offsetof(SharedMemory<V>, slots));
    return base + static_cast<uint32_t>(first + slot * int{sizeof(Slot<V>)});
  }
  __device__ __forceinline__ uint32_t value_tile(int slot) const {
    return key_tile(slot) + static_cast<uint32_t>(offsetof(Slot<V>, value));
  }
  __device__ __forceinline__ StepExtras<V>& extras(int slot) const { return shared.extras[slot]; }
  __device__ __forceinline__ FineExtras& fine_extras(int slot) const {
    return shared.fine_extras()[slot];
  }
  __device__ __forceinline__ uint32_t full(int slot) const {
    constexpr auto first = static_cast<int>(offsetof(SharedMemory<V>, full));
    return base + static_cast<uint32_t>(first + slot * int{sizeof(uint64_t)});
  }
  __device__ __forceinline__ uint32_t empty(int slot) const {
    constexpr auto first = static_cast<int>(offsetof(SharedMemory<V>, empty));
    return base + static_cast<uint32_t>(first + slot * int{sizeof(uint64_t)});
  }

  // By one thread; a barrier of the thread block must follow.
  __device__ __forceinline__ void initialise() const {
    for (int slot = 0; slot < Layout<V>::slots; slot++) {
      ptx::mbarrier_init(full(slot), 1);
      ptx::mbarrier_init(empty(slot), V::compute_threads / 32);
    }
    ptx::fence_mbarrier_init();
  }

  __device__ __forceinline__ void wait_full(const RingPlace<V>& at) const {
    ptx::mbarrier_wait(full(at.slot), at.parity);
  }
  // In the first round every slot is empty.
  __device__ __forceinline__ void wait_empty(const RingPlace<V>& at) const {
    ptx::mbarrier_wait(empty(at.slot), at.parity ^ 1);
  }
  // Whether the rows of a consumer warpgroup attend the step in the slot, or it is the end.
  __device__ __forceinline__ bool attends(int slot, int warpgroup) const {
    return V::query_blocks == 1 || (extras(slot).attending >> warpgroup & 1u) != 0;
  }
  // By a whole warp that no longer reads the slot.
  __device__ __forceinline__ void release(int slot) const {
    __syncwarp();  // sync: every lane has read the extras
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(empty(slot));
  }
};

#endif  // PARO_HAS_WGMMA

}  // namespace paro::kernels::sparse_attention::sm90
