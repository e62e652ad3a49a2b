// Shared memory of a thread block, and what its warps wait for.
//
// A ring of slots is between the producer and the consumers. A slot is full when its bytes have
// landed and its extras are written. It is empty when every consumer warp has left it. The ring goes
// on from tile to tile.
//
// Tiles are numbered in the order in which the thread block computes them. Two of them are known at
// a time: that of the consumers and the next, whose queries and first steps are loaded meanwhile.
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
  weighed,  // StepExtras::keys says which keys are attended
  fine,     // FineExtras say what the groups are
  end,      // no step: the walk is over
};

// What is added to the score of an absent key, so that it is no maximum: no other score is as low.
constexpr int32_t absent_penalty = -(1 << 30);

// Which keys of a step a query block attends. Key 8 n + 2 i + j is at [i][2 n + j]: a lane needs those
// of one i, in this order.
template <class V>
struct alignas(16) AttendedKeys {
  static constexpr int of_lane = V::step_keys / 4;

  // Four more keep the lanes in different banks.
  alignas(16) int32_t penalty[4][of_lane + 4];  // 0, or absent_penalty
  alignas(16) uint8_t code[4][of_lane];         // 0xFF, or 0: what its codes of P are cut to
};

// What a step needs in addition to its tiles.
template <class V>
struct alignas(16) StepExtras {
  float key_scale[V::blocks_a_step];
  float value_scale[V::blocks_a_step];
  // Of a block's logits: log2 of the tokens that a key stands for; lowest_logit: the block is absent.
  float shift[V::blocks_a_step];
  StepKind kind;
  uint32_t attending;  // bits of the tile's query blocks that attend the step, where it has two
  // In a weighed step, the summary of the sequence's last block if that is not full, or -1; and what
  // its logits lack.
  int32_t last_key;
  float lack;
  AttendedKeys<V> keys[V::query_blocks];
};

// What a step of fine summaries needs. What belongs to group 4 q + i is at [i][q]: a lane needs that
// of one i. A group's share is its value scale relative to the largest of the step.
struct alignas(16) FineExtras {
  float key_scale[4][fine_step_groups / 4];
  float log2_share[4][fine_step_groups / 4];
  float inverse_share[4][fine_step_groups / 4];
  float weight[fine_step_keys];  // log2 of the tokens of a key; lowest_logit: absent
  float value_scale;             // the largest of the step
};

template <class V>
struct Slot {
  uint8_t key[V::blocks_a_step][Layout<V>::block_bytes];
  uint8_t value[V::blocks_a_step][Layout<V>::block_bytes];
};

// What the query warp tells the others of a tile.
template <class V>
struct alignas(16) TileData {
  QueryBlock work;  // a negative index: no tile is left
  MaskRows masks;
  int64_t first_block;  // of the unit, in the workspace
  int32_t token[V::tile_rows];
  float value_mean[V::head_dim], value_scale[V::head_dim];
};

template <class V>
struct alignas(16) SharedMemory {
  uint8_t query[Layout<V>::query_bytes];  // codes
  Slot<V> slots[Layout<V>::slots];
  uint8_t raw_query[Layout<V>::raw_query_bytes];  // as the inputs have it, of this tile or the next
  float equalizer[V::head_dim];                   // of it
  StepExtras<V> extras[Layout<V>::slots];
  TileData<V> tiles[tiles_at_once];
  float row_factors[V::tile_rows];
  uint64_t full[Layout<V>::slots];
  uint64_t empty[Layout<V>::slots];
  uint64_t published[tiles_at_once];
  uint64_t left[tiles_at_once];
  uint64_t wanted;
  uint64_t query_full;
  uint64_t query_empty;
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

  __device__ __forceinline__ TileData<V>& tile(int number) const {
    return shared.tiles[number % tiles_at_once];
  }
  __device__ __forceinline__ uint32_t published(int number) const {
    constexpr auto first = static_cast<int>(offsetof(SharedMemory<V>, published));
    return base + static_cast<uint32_t>(first + number % tiles_at_once * int{sizeof(uint64_t)});
  }
  __device__ __forceinline__ uint32_t left(int number) const {
    constexpr auto first = static_cast<int>(offsetof(SharedMemory<V>, left));
    return base + static_cast<uint32_t>(first + number % tiles_at_once * int{sizeof(uint64_t)});
  }
  __device__ __forceinline__ uint32_t wanted() const {
    return base + static_cast<uint32_t>(offsetof(SharedMemory<V>, wanted));
  }
  __device__ __forceinline__ uint32_t query_full() const {
    return base + static_cast<uint32_t>(offsetof(SharedMemory<V>, query_full));
  }
  __device__ __forceinline__ uint32_t query_empty() const {
    return base + static_cast<uint32_t>(offsetof(SharedMemory<V>, query_empty));
  }
  __device__ __forceinline__ uint32_t raw_query() const {
    return base + static_cast<uint32_t>(offsetof(SharedMemory<V>, raw_query));
  }

  // By one thread; a barrier of the thread block must follow.
  __device__ __forceinline__ void initialise() const {
    constexpr int consumer_warps = V::compute_threads / 32;
    for (int slot = 0; slot < Layout<V>::slots; slot++) {
      ptx::mbarrier_init(full(slot), 1);
      ptx::mbarrier_init(empty(slot), consumer_warps);
    }
    for (int number = 0; number < tiles_at_once; number++) {
      ptx::mbarrier_init(published(number), 1);
      ptx::mbarrier_init(left(number), consumer_warps);
    }
    ptx::mbarrier_init(wanted(), 1);
    ptx::mbarrier_init(query_full(), 1);
    ptx::mbarrier_init(query_empty(), consumer_warps);
    ptx::fence_mbarrier_init();
  }

  // Until the producer has started all copies of the tile before, so that no thread block has a
  // tile long before it computes it.
  __device__ __forceinline__ void wait_wanted(int number) const {
    ptx::mbarrier_wait(wanted(), static_cast<uint32_t>(number) % 2 ^ 1);
  }
  // Until the query warp has found tile `number`.
  __device__ __forceinline__ void wait_published(int number) const {
    ptx::mbarrier_wait(published(number), tile_parity(number));
  }
  // Until the consumers have left the tile whose data the next one overwrites.
  __device__ __forceinline__ void wait_left(int number) const {
    ptx::mbarrier_wait(left(number), tile_parity(number) ^ 1);
  }
  // Until the queries of tile `number` are in `raw_query`, and the rest of its TileData is written.
  __device__ __forceinline__ void wait_query_full(int number) const {
    ptx::mbarrier_wait(query_full(), static_cast<uint32_t>(number) % 2);
  }
  // Until the consumers have quantized the queries of the tile before.
  __device__ __forceinline__ void wait_query_empty(int number) const {
    ptx::mbarrier_wait(query_empty(), static_cast<uint32_t>(number) % 2 ^ 1);
  }
  // By a whole warp: it has done what the barrier waits for.
  __device__ __forceinline__ void arrive(uint32_t barrier) const {
    __syncwarp();  // sync: every lane has done it
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(barrier);
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
  __device__ __forceinline__ void release(int slot) const { arrive(empty(slot)); }

 private:
  static __device__ __forceinline__ uint32_t tile_parity(int number) {
    return static_cast<uint32_t>(number) / tiles_at_once % 2;
  }
};

#endif  // PARO_HAS_WGMMA

}  // namespace paro::kernels::sparse_attention::sm90
