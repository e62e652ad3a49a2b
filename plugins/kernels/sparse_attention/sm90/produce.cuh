// The producer warp: walks the key blocks of a query block and loads the tiles and scales of each
// step into the next slot of the ring.
#pragma once

#include "kernels/sparse_attention/common/span_walk.cuh"
#include "kernels/sparse_attention/sm90/ring.cuh"

#if PARO_HAS_WGMMA

namespace paro::kernels::sparse_attention::sm90 {

// A span of the walk, which is a key block here, with its scales.
struct Span {
  int index;
  float key_scale, value_scale;
  bool is_plain;
};

// The mask row of one query block of the tile.
template <int QueryBlocks>
DEVICE_FN SpanMask row_of(const TileMask<QueryBlocks>& mask, int block) {
  const int offset = block * mask.word_count;
  return {mask.words + offset, mask.word_count, mask.covered + offset};
}

// Bits of the query blocks that attend a span.
template <int QueryBlocks>
DEVICE_FN uint32_t attending(const TileMask<QueryBlocks>& mask, const Extent& e, int span) {
  uint32_t bits = 0;
#pragma unroll
  for (int block = 0; block < QueryBlocks; block++) {
    const SpanMask row = row_of(mask, block);
    const bool attends = span < e.token_spans ? row.has(span)
                                              : has_summaries(row, e, span - e.token_spans);
    bits |= attends ? 1u << block : 0u;
  }
  return bits;
}

// Spans in the order of the walk. Each lane reads the scales of one span from global memory, 32
// spans at a time, so that the producer waits for them once in 32 spans, while the ring is full.
template <int QueryBlocks>
class SpanQueue {
 public:
  __device__ __forceinline__ SpanQueue(const float* key_scale, const float* value_scale,
                                       const TileMask<QueryBlocks>& mask, const Extent& extent)
      : key_scales_(key_scale),
        value_scales_(value_scale),
        extent_(extent),
        walk_(mask),
        count_(count_spans(mask, extent)) {}

  __device__ __forceinline__ bool is_empty() const { return taken_ == count_.total; }

  // By the whole warp.
  __device__ __forceinline__ Span take() {
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
      const int span = walk_.next(extent_);
      if (i == lane) index_ = span;
    }
    if (lane >= left) return;
    key_scale_ = __ldg(key_scales_ + index_);
    value_scale_ = __ldg(value_scales_ + index_);
  }

  const float* key_scales_;
  const float* value_scales_;
  const Extent& extent_;
  TileWalk<QueryBlocks> walk_;
  SpanCount count_;
  int taken_ = 0;
  int index_ = 0;
  float key_scale_ = 0, value_scale_ = 0;
};

// The key blocks of a step; the second of two may be missing.
template <class V>
struct Step {
  Span spans[V::blocks_a_step];
  int count = 0;
  bool is_plain = true;

  // By the whole warp, of a queue that is not empty.
  __device__ __forceinline__ explicit Step(SpanQueue<V::query_blocks>& queue) {
#pragma unroll
    for (int i = 0; i < V::blocks_a_step; i++) {
      if (queue.is_empty()) break;
      spans[i] = queue.take();
      is_plain = is_plain && spans[i].is_plain;
      count = i + 1;
    }
  }
};

// Writes what each key of a step stands for. Plain steps do not need it.
template <class V>
DEVICE_FN void write_weights(const Step<V>& step, const TileMask<V::query_blocks>& mask,
                             const Extent& extent, StepExtras<V>& extras) {
#pragma unroll 1
  for (int block = 0; block < V::query_blocks; block++) {
    const SpanMask row = row_of(mask, block);
#pragma unroll
    for (int i = 0; i < V::blocks_a_step; i++) {
      for (int key = static_cast<int>(threadIdx.x % 32); key < V::block_k; key += 32) {
        const int tokens = i < step.count ? token_count(row, extent, step.spans[i].index, key) : 0;
        extras.weight[block][i * V::block_k + key] =
            tokens == 0 ? lowest_logit : ptx::log2_approx(static_cast<float>(tokens));
      }
    }
  }
}

// By one lane. A missing block adds nothing to the output, whatever its tile contains: its keys
// weigh 2^-1e30.
template <class V>
DEVICE_FN void write_scales(const Step<V>& step, const TileMask<V::query_blocks>& mask,
                            const Extent& extent, StepExtras<V>& extras) {
#pragma unroll
  for (int i = 0; i < V::blocks_a_step; i++) {
    const bool exists = i < step.count;
    extras.key_scale[i] = exists ? step.spans[i].key_scale : 0.0f;
    extras.value_scale[i] = exists ? step.spans[i].value_scale : 0.0f;
    extras.shift[i] = exists ? 0.0f : lowest_logit;
  }
  if constexpr (V::query_blocks > 1) {
    extras.attending = attending(mask, extent, step.spans[0].index);
  }
  extras.kind = step.is_plain ? StepKind::plain : StepKind::weighed;
}

// Stage 1 wrote the tiles as wgmma reads them, so each is a run of bytes. By one lane.
template <class V>
DEVICE_FN void load_tiles(const uint8_t* keys, const uint8_t* values, const Step<V>& step,
                          const Ring<V>& ring, int slot) {
  constexpr int bytes = Layout<V>::block_bytes;
  const uint32_t barrier = ring.full(slot);
  ptx::mbarrier_arrive_expect(barrier, static_cast<uint32_t>(2 * bytes * step.count));
#pragma unroll
  for (int i = 0; i < V::blocks_a_step; i++) {
    if (i >= step.count) break;
    const int64_t from = static_cast<int64_t>(step.spans[i].index) * bytes;
    const auto to = static_cast<uint32_t>(i * bytes);
    ptx::bulk_load(ring.key_tile(slot) + to, keys + from, bytes, barrier);
    ptx::bulk_load(ring.value_tile(slot) + to, values + from, bytes, barrier);
  }
}

// By one warp. `first_block`: index of the unit's first key block in the workspace.
template <class V>
DEVICE_FN void produce(const PreparedKeys& prepared, int64_t first_block,
                       const TileMask<V::query_blocks>& mask, const Extent& extent, const Ring<V>& ring, RingPlace<V>& at) {
  const bool is_leader = threadIdx.x % 32 == 0;
  const uint8_t* keys = prepared.key + first_block * Layout<V>::block_bytes;
  const uint8_t* values = prepared.value + first_block * Layout<V>::block_bytes;
  SpanQueue<V::query_blocks> queue(prepared.key_scale + first_block, prepared.value_scale + first_block, mask,
                  extent);
#pragma unroll 1
  while (!queue.is_empty()) {
    const Step<V> step(queue);
    ring.wait_empty(at);
    StepExtras<V>& extras = ring.extras(at.slot);
    if (!step.is_plain) write_weights(step, mask, extent, extras);
    if (is_leader) write_scales(step, mask, extent, extras);
    __syncwarp();  // sync: the extras are written before the leader arrives for all
    if (is_leader) load_tiles(keys, values, step, ring, at.slot);
    at.advance();
  }
}

// By one warp, after the last step.
template <class V>
DEVICE_FN void end_walk(const Ring<V>& ring, const RingPlace<V>& at) {
  ring.wait_empty(at);
  if (threadIdx.x % 32 == 0) {
    ring.extras(at.slot).kind = StepKind::end;
    ring.extras(at.slot).attending = ~0u;
    ptx::mbarrier_arrive(ring.full(at.slot));
  }
}

}  // namespace paro::kernels::sparse_attention::sm90

#endif  // PARO_HAS_WGMMA
