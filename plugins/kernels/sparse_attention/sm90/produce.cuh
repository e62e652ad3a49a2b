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
  // `first_block`: as in `produce`.
  __device__ __forceinline__ SpanQueue(const PreparedKeys& prepared, const int64_t& first_block,
                                       const TileMask<QueryBlocks>& mask, const Extent& extent)
      : prepared_(prepared),
        first_block_(first_block),
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
    const int64_t block = first_block_ + index_;
    key_scale_ = __ldg(prepared_.key_scale + block);
    value_scale_ = __ldg(prepared_.value_scale + block);
  }

  const PreparedKeys& prepared_;
  const int64_t& first_block_;
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

// Writes which keys of a step are attended. Plain steps do not need it.
template <class V>
DEVICE_FN void write_keys(const Step<V>& step, const TileMask<V::query_blocks>& mask,
                          const Extent& extent, StepExtras<V>& extras) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll 1
  for (int block = 0; block < V::query_blocks; block++) {
    const SpanMask row = row_of(mask, block);
    AttendedKeys<V>& keys = extras.keys[block];
#pragma unroll
    for (int i = 0; i < V::blocks_a_step; i++) {
#pragma unroll 1
      for (int key = lane; key < V::block_k; key += 32) {
        const bool is_attended =
            i < step.count && token_count(row, extent, step.spans[i].index, key) != 0;
        const int of_lane = key % 8 / 2, place = (i * V::block_k + key) / 8 * 2 + key % 2;
        keys.penalty[of_lane][place] = is_attended ? 0 : absent_penalty;
        keys.code[of_lane][place] = is_attended ? 0xFF : 0;
      }
    }
  }
}

// By one lane. A missing block adds nothing to the output, whatever its tile contains: its keys
// weigh 2^-1e30.
template <class V>
DEVICE_FN void write_scales(const Step<V>& step, const TileMask<V::query_blocks>& mask,
                            const Extent& extent, StepExtras<V>& extras) {
  extras.last_key = -1;
#pragma unroll
  for (int i = 0; i < V::blocks_a_step; i++) {
    const bool exists = i < step.count;
    extras.key_scale[i] = exists ? step.spans[i].key_scale : 0.0f;
    extras.value_scale[i] = exists ? step.spans[i].value_scale : 0.0f;
    const int group = step.spans[i].index - extent.token_spans;  // of summaries, if not negative
    const auto summary_shift = static_cast<float>(extent.span_shift);
    extras.shift[i] = !exists ? lowest_logit : group >= 0 ? summary_shift : 0.0f;
    const int last = ((extent.length - 1) >> extent.span_shift) - (group << extent.span_shift);
    const int tokens = extent.length & (extent.span_keys() - 1);
    if (exists && group >= 0 && last < V::block_k && tokens != 0) {
      extras.last_key = i * V::block_k + last;
      extras.lack = ptx::log2_approx(static_cast<float>(tokens)) - summary_shift;
    }
  }
  if constexpr (V::query_blocks > 1) {
    extras.attending = attending(mask, extent, step.spans[0].index);
  }
  extras.kind = step.is_plain ? StepKind::plain : StepKind::weighed;
}

// Stage 1 wrote the tiles as wgmma reads them, so each is a run of bytes. By one lane.
template <class V>
DEVICE_FN void load_tiles(const PreparedKeys& prepared, const int64_t& first_block,
                          const Step<V>& step, const Ring<V>& ring, int slot) {
  constexpr int bytes = Layout<V>::block_bytes;
  const uint32_t barrier = ring.full(slot);
  ptx::mbarrier_arrive_expect(barrier, static_cast<uint32_t>(2 * bytes * step.count));
#pragma unroll
  for (int i = 0; i < V::blocks_a_step; i++) {
    if (i >= step.count) break;
    const int64_t from = (first_block + step.spans[i].index) * bytes;
    const auto to = static_cast<uint32_t>(i * bytes);
    ptx::bulk_load(ring.key_tile(slot) + to, prepared.key + from, bytes, barrier);
    ptx::bulk_load(ring.value_tile(slot) + to, prepared.value + from, bytes, barrier);
  }
}

// By one warp. `first_block`: index of the unit's first key block in the workspace. It is read from
// shared memory in each step: the pointers that follow from it would take registers, of which there
// are few.
template <class V>
DEVICE_FN void produce(const PreparedKeys& prepared, const int64_t& first_block,
                       const TileMask<V::query_blocks>& mask, const Extent& extent,
                       const Ring<V>& ring, RingPlace<V>& at) {
  const bool is_leader = threadIdx.x % 32 == 0;
  SpanQueue<V::query_blocks> queue(prepared, first_block, mask, extent);
#pragma unroll 1
  while (!queue.is_empty()) {
    const Step<V> step(queue);
    ring.wait_empty(at);
    StepExtras<V>& extras = ring.extras(at.slot);
    if (!step.is_plain) write_keys(step, mask, extent, extras);
    if (is_leader) write_scales(step, mask, extent, extras);
    __syncwarp();  // sync: the extras are written before the leader arrives for all
    if (is_leader) load_tiles(prepared, first_block, step, ring, at.slot);
    at.advance();
  }
}

// By one warp, after the last step.
template <class V>
DEVICE_FN void end_walk(const Ring<V>& ring, RingPlace<V>& at) {
  ring.wait_empty(at);
  if (threadIdx.x % 32 == 0) {
    ring.extras(at.slot).kind = StepKind::end;
    ring.extras(at.slot).attending = ~0u;
    ptx::mbarrier_arrive(ring.full(at.slot));
  }
  at.advance();
}

}  // namespace paro::kernels::sparse_attention::sm90

#endif  // PARO_HAS_WGMMA
