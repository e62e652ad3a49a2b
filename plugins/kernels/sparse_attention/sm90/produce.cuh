// The producer warp: walks the key blocks of a query block and sends the tiles and scales of each
// step to the next stage of the ring.
#pragma once

#include "kernels/sparse_attention/slot_walk.cuh"
#include "kernels/sparse_attention/sm90/ring.cuh"
#include "kernels/sparse_attention/softmax.cuh"

#if PARO_HAS_WGMMA

namespace paro::kernels::sparse_attention::wgmma {

// A slot of the walk, here a key block, with its scales.
struct Slot {
  int index;
  float key_scale, value_scale;
  bool is_plain;
};

// Slots in the order of the walk. Their scales come from global memory, 32 at once: a lane each, so
// that the latency is met once in 32 blocks, with the ring full.
class SlotQueue {
 public:
  __device__ __forceinline__ SlotQueue(const float* key_scale, const float* value_scale,
                                       const MaskRow& mask, const Extent& extent)
      : key_scales_(key_scale),
        value_scales_(value_scale),
        extent_(extent),
        walk_(mask),
        count_(count_slots(mask, extent)) {}

  __device__ __forceinline__ bool is_empty() const { return taken_ == count_.total; }

  // By the whole warp.
  __device__ __forceinline__ Slot take() {
    const int lane = taken_ % 32;
    if (lane == 0) refill();
    return {__shfl_sync(~0u, index_, lane), __shfl_sync(~0u, key_scale_, lane),
            __shfl_sync(~0u, value_scale_, lane), taken_++ < count_.plain};
  }

 private:
  __device__ __forceinline__ void refill() {
    const int lane = static_cast<int>(threadIdx.x % 32), left = min(count_.total - taken_, 32);
#pragma unroll 1
    for (int i = 0; i < left; i++) {
      const int slot = walk_.next(extent_);
      if (i == lane) index_ = slot;
    }
    if (lane >= left) return;
    key_scale_ = __ldg(key_scales_ + index_);
    value_scale_ = __ldg(value_scales_ + index_);
  }

  const float* key_scales_;
  const float* value_scales_;
  const Extent& extent_;
  SlotWalk walk_;
  SlotCount count_;
  int taken_ = 0;
  int index_ = 0;
  float key_scale_ = 0, value_scale_ = 0;
};

// The key blocks of a step; the second of two may be missing.
template <class V>
struct Step {
  Slot slots[V::blocks_a_step];
  int count = 0;
  bool is_plain = true;

  // By the whole warp, of a queue that is not empty.
  __device__ __forceinline__ explicit Step(SlotQueue& queue) {
#pragma unroll
    for (int i = 0; i < V::blocks_a_step; i++) {
      if (queue.is_empty()) break;
      slots[i] = queue.take();
      is_plain = is_plain && slots[i].is_plain;
      count = i + 1;
    }
  }
};

// What each key of a step stands for. Where all are plain it is not asked.
template <class V>
DEVICE_FN void write_weights(const Step<V>& step, const MaskRow& mask, const Extent& extent,
                             StepExtras<V>& extras) {
#pragma unroll
  for (int i = 0; i < V::blocks_a_step; i++) {
    for (int key = static_cast<int>(threadIdx.x % 32); key < V::block_k; key += 32) {
      const int tokens = i < step.count ? token_count(mask, extent, step.slots[i].index, key) : 0;
      extras.weight[i * V::block_k + key] =
          tokens == 0 ? lowest_logit : ptx::log2_approx(static_cast<float>(tokens));
    }
  }
}

// By one lane. A block that is missing leaves nothing, whatever its tile holds: its keys weigh
// 2^-1e30.
template <class V>
DEVICE_FN void write_scales(const Step<V>& step, StepExtras<V>& extras) {
#pragma unroll
  for (int i = 0; i < V::blocks_a_step; i++) {
    const bool exists = i < step.count;
    extras.key_scale[i] = exists ? step.slots[i].key_scale : 0.0f;
    extras.value_scale[i] = exists ? step.slots[i].value_scale : 0.0f;
    extras.shift[i] = exists ? 0.0f : lowest_logit;
  }
  extras.kind = step.is_plain ? StepKind::plain : StepKind::weighed;
}

// Stage 1 left tiles as wgmma reads them: each is a run of bytes. By one lane.
template <class V>
DEVICE_FN void send_tiles(const uint8_t* keys, const uint8_t* values, const Step<V>& step,
                          const Ring<V>& ring, int stage) {
  constexpr int bytes = Layout<V>::block_bytes;
  const uint32_t barrier = ring.full(stage);
  ptx::mbarrier_arrive_expect(barrier, static_cast<uint32_t>(2 * bytes * step.count));
#pragma unroll
  for (int i = 0; i < V::blocks_a_step; i++) {
    if (i >= step.count) break;
    const int64_t from = static_cast<int64_t>(step.slots[i].index) * bytes;
    const auto to = static_cast<uint32_t>(i * bytes);
    ptx::bulk_load(ring.key_tile(stage) + to, keys + from, bytes, barrier);
    ptx::bulk_load(ring.value_tile(stage) + to, values + from, bytes, barrier);
  }
}

// By one warp. `first_block`: the unit's in the workspace.
template <class V>
DEVICE_FN void produce(const PreparedKeys& prepared, int64_t first_block, const MaskRow& mask,
                       const Extent& extent, const Ring<V>& ring) {
  const bool is_leader = threadIdx.x % 32 == 0;
  const uint8_t* keys = prepared.key + first_block * Layout<V>::block_bytes;
  const uint8_t* values = prepared.value + first_block * Layout<V>::block_bytes;
  SlotQueue queue(prepared.key_scale + first_block, prepared.value_scale + first_block, mask,
                  extent);
  RingPlace<V> at;
#pragma unroll 1
  while (!queue.is_empty()) {
    const Step<V> step(queue);
    ring.wait_empty(at);
    StepExtras<V>& extras = ring.extras(at.stage);
    if (!step.is_plain) write_weights(step, mask, extent, extras);
    if (is_leader) write_scales(step, extras);
    __syncwarp();  // sync: the extras are written before the leader arrives for all
    if (is_leader) send_tiles(keys, values, step, ring, at.stage);
    at.advance();
  }
  ring.wait_empty(at);
  if (is_leader) {
    ring.extras(at.stage).kind = StepKind::end;
    ptx::mbarrier_arrive(ring.full(at.stage));
  }
}

}  // namespace paro::kernels::sparse_attention::wgmma

#endif  // PARO_HAS_WGMMA
