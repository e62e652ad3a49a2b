// The fine blocks of a query block, and where the summaries of a group lie in a step.
//
// Group j of a step fills word j of a channel's 64 keys in value order (value_order.h): its four
// summaries are keys 16 q + 2 i, + 1, + 8 and + 9 with j = 4 q + i. A group's values are then one
// word a channel, and lane i of a quad, in whose accumulators those keys are, meets four groups.
#pragma once

#include "kernels/sparse_attention/common/span_walk.cuh"

namespace paro::kernels::sparse_attention {

// Row of summary `summary` of group `group` in a tile of keys, and of 16-bit values.
DEVICE_FN uint32_t fine_row(uint32_t group, uint32_t summary) {
  return group / 4 * 16 + summary / 2 * 8 + group % 4 * 2 + summary % 2;
}

// The fine blocks of a word of the mask, those of all query blocks, each at the bit of its first
// span.
template <int QueryBlocks>
DEVICE_FN uint32_t fine_bits(const TileMask<QueryBlocks>& mask, int block_shift, int index) {
  uint32_t bits = 0;
#pragma unroll
  for (int block = 0; block < QueryBlocks; block++) {
    const int at = block * mask.word_count + index;
    bits |= mask.covered[at] & ~mask.words[at];
  }
  return block_shift == 0 ? bits : bits & 0x55555555u;
}

// The fine blocks of the mask that one thread is for: number `group` of each step.
template <int QueryBlocks>
class TileFineWalk {
 public:
  __device__ __forceinline__ TileFineWalk(const TileMask<QueryBlocks>& mask, const Extent& e,
                                          int group)
      : mask_(mask), shift_(e.block_shift), word_(word(0)) {
    find();
    first_ = block();
    skip(group);
  }

  // The block; one of the list where it is over, which the caller knows.
  __device__ __forceinline__ int current(bool exists) const { return exists ? block() : first_; }
  // The block; no block where the list is over.
  __device__ __forceinline__ int block() const {
    return (index_ * 32 + __ffs(static_cast<int>(word_)) - 1) >> shift_;
  }
  __device__ __forceinline__ void advance(int groups) { skip(groups); }

 private:
  __device__ __forceinline__ uint32_t word(int index) const {
    return fine_bits(mask_, shift_, index);
  }
  __device__ __forceinline__ void find() {
    while (word_ == 0 && ++index_ < mask_.word_count) word_ = word(index_);
  }
  __device__ __forceinline__ void skip(int count) {
    while (index_ < mask_.word_count && count >= __popc(word_)) {
      count -= __popc(word_);
      word_ = ++index_ < mask_.word_count ? word(index_) : 0;
    }
    for (; count > 0; count--) word_ &= word_ - 1;
  }

  const TileMask<QueryBlocks>& mask_;
  int shift_;
  int index_ = 0;
  uint32_t word_;
  int first_;
};

using FineWalk = TileFineWalk<1>;

// How many fine blocks the mask has. By a whole warp.
template <int QueryBlocks>
DEVICE_FN int count_fine_blocks(const TileMask<QueryBlocks>& mask, const Extent& e) {
  int count = 0;
  for (int i = static_cast<int>(threadIdx.x % 32); i < mask.word_count; i += 32) {
    count += __popc(fine_bits(mask, e.block_shift, i));
  }
  return __reduce_add_sync(~0u, count);
}

}  // namespace paro::kernels::sparse_attention
