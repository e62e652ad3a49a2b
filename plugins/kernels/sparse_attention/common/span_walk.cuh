// The spans that a query block attends, in order: first those of the key blocks on its mask row,
// ascending, then those of the summary tokens of the other blocks. The walk decodes them from the
// bits of the mask; nothing writes a list.
#pragma once

#include "kernels/device_plan.cuh"

namespace paro::kernels::sparse_attention {

// The sequence of keys, divided into spans: runs of 64 or 128 keys, a key block or half of one.
struct Extent {
  int length;       // tokens that exist
  int span_shift;   // log2 of the keys in a span
  int block_shift;  // log2 of the spans in a key block
  int token_spans;  // of all NK blocks; the spans of summary tokens follow
  bool pooled;

  __device__ __forceinline__ int span_keys() const { return 1 << span_shift; }
  // Spans and blocks that contain a token.
  __device__ __forceinline__ int existing_spans() const {
    return (length + span_keys() - 1) >> span_shift;
  }
  __device__ __forceinline__ int existing_blocks() const {
    return (existing_spans() + (1 << block_shift) - 1) >> block_shift;
  }
  // A span of summary tokens stands for a group of as many blocks as a span has keys.
  __device__ __forceinline__ int summary_spans() const {
    return pooled ? (existing_blocks() + span_keys() - 1) >> span_shift : 0;
  }
};

template <int SpanKeys>
DEVICE_FN Extent extent_of(const Geometry& g, int length) {
  const int block_shift = g.block_k == SpanKeys ? 0 : 1;
  return {.length = length,
          .span_shift = SpanKeys == 64 ? 6 : 7,
          .block_shift = block_shift,
          .token_spans = g.key_blocks << block_shift,
          .pooled = g.summary_blocks > 0};
}

// Repeats each bit: the bit of a block becomes the bits of its two spans.
DEVICE_FN uint64_t double_bits(uint32_t bits) {
  uint64_t x = bits;
  x = (x | x << 16) & 0x0000FFFF0000FFFFull;
  x = (x | x << 8) & 0x00FF00FF00FF00FFull;
  x = (x | x << 4) & 0x0F0F0F0F0F0F0F0Full;
  x = (x | x << 2) & 0x3333333333333333ull;
  x = (x | x << 1) & 0x5555555555555555ull;
  return x | x << 1;
}

// The inverse: each bit of the result is an even one of `bits`.
DEVICE_FN uint32_t halve_bits(uint64_t bits) {
  uint64_t x = bits & 0x5555555555555555ull;
  x = (x | x >> 1) & 0x3333333333333333ull;
  x = (x | x >> 2) & 0x0F0F0F0F0F0F0F0Full;
  x = (x | x >> 4) & 0x00FF00FF00FF00FFull;
  x = (x | x >> 8) & 0x0000FFFF0000FFFFull;
  return static_cast<uint32_t>(x | x >> 16);
}

// The lowest `count` of 32 bits, at most all and at least none.
DEVICE_FN uint32_t low_bits(int count) {
  return count >= 32 ? ~0u : count <= 0 ? 0u : ~(~0u << count);
}

// Bits of word `index` whose spans contain a token.
DEVICE_FN uint32_t existing_bits(const Extent& e, int index) {
  return low_bits(e.existing_spans() - index * 32);
}

// The mask rows of a tile's query blocks in shared memory, one after the other: one bit for each
// span, clear where the span contains no token.
template <int QueryBlocks>
struct TileMask {
  const uint32_t* words;    // exact
  int word_count;           // span_mask_words, of one row
  const uint32_t* covered;  // exact or fine: those without a coarse summary; `words` without fine ones

  // Whether query block `block` attends every key of the span.
  __device__ __forceinline__ bool has(int span, int block = 0) const {
    return (words[block * word_count + span / 32] >> (span % 32) & 1u) != 0;
  }
  __device__ __forceinline__ bool covers(int span, int block = 0) const {
    return (covered[block * word_count + span / 32] >> (span % 32) & 1u) != 0;
  }
  // Spans of word `index` that some query block attends.
  __device__ __forceinline__ uint32_t listed(int index) const {
    uint32_t bits = words[index];
#pragma unroll
    for (int block = 1; block < QueryBlocks; block++) bits |= words[block * word_count + index];
    return bits;
  }
};

// Of one query block.
using SpanMask = TileMask<1>;

// `source`: a mask row, one bit for each key block.
DEVICE_FN uint32_t span_word(const uint32_t* source, const Extent& e, int index) {
  uint32_t word = __ldg(source + (index >> e.block_shift));
  if (e.block_shift == 1) word = static_cast<uint32_t>(double_bits(word) >> index % 2 * 32);
  return word & existing_bits(e, index);
}

// Fills one row of the mask, and where there are fine blocks, `covered`.
template <int Threads>
DEVICE_FN void load_mask_row(const uint32_t* exact, const uint32_t* fine, const Extent& e,
                             int word_count, uint32_t* target, uint32_t* covered) {
  for (int i = static_cast<int>(threadIdx.x); i < word_count; i += Threads) {
    const uint32_t word = span_word(exact, e, i);
    target[i] = word;
    if (fine != nullptr) covered[i] = word | span_word(fine, e, i);
  }
}

// `target`: the words of the exact spans, and then, where there is a row of fine blocks, those of
// the covered ones.
template <int Threads>
DEVICE_FN void load_span_mask(const uint32_t* exact, const uint32_t* fine, const Extent& e,
                              int word_count, uint32_t* target) {
  load_mask_row<Threads>(exact, fine, e, word_count, target, target + word_count);
}

// Bits of word `index` whose spans exist and belong to a block that is neither exact nor fine in
// the row of query block `block`, so that its summary token is attended. 0 past the last word.
template <int QueryBlocks>
DEVICE_FN uint32_t summarized_bits(const TileMask<QueryBlocks>& mask, const Extent& e, int index,
                                   int block) {
  if (index >= mask.word_count) return 0;
  return ~mask.covered[block * mask.word_count + index] & existing_bits(e, index);
}

// Whether the span of the summary tokens of group `group` has one that is attended.
template <int QueryBlocks>
DEVICE_FN bool has_summaries(const TileMask<QueryBlocks>& mask, const Extent& e, int group) {
  const int words = e.span_keys() / 32 << e.block_shift, first = group * words;
  uint32_t remaining = 0;
#pragma unroll 1
  for (int i = first; i < first + words; i++) {
#pragma unroll
    for (int block = 0; block < QueryBlocks; block++) {
      remaining |= summarized_bits(mask, e, i, block);
    }
  }
  return remaining != 0;
}

// Of groups 32 `index` .. those that have summaries. By a whole warp.
template <int QueryBlocks>
DEVICE_FN uint32_t summary_groups(const TileMask<QueryBlocks>& mask, const Extent& e, int index) {
  const int group = index * 32 + static_cast<int>(threadIdx.x % 32);
  return __ballot_sync(~0u, group < e.summary_spans() && has_summaries(mask, e, group));
}

// Bits of the keys 32 `part` .. of a span that query block `block` attends: tokens that exist, or
// summary tokens.
template <int QueryBlocks>
DEVICE_FN uint32_t attended_keys(const TileMask<QueryBlocks>& mask, const Extent& e, int span,
                                 int part, int block) {
  if (span < e.token_spans) {
    if (QueryBlocks > 1 && !mask.has(span, block)) return 0;
    return low_bits(e.length - (span << e.span_shift) - part * 32);
  }
  const int word = (((span - e.token_spans) << e.span_shift) / 32 + part) << e.block_shift;
  if (e.block_shift == 0) return summarized_bits(mask, e, word, block);
  return halve_bits(summarized_bits(mask, e, word, block) |
                    uint64_t{summarized_bits(mask, e, word + 1, block)} << 32);
}

// The walk over the spans that some query block of the tile attends. Every thread that uses one
// computes the same spans.
template <int QueryBlocks>
class TileWalk {
 public:
  __device__ __forceinline__ TileWalk(const TileMask<QueryBlocks>& mask)
      : mask_(mask), word_(mask.listed(0)) {}

  // The next span. Must not be called more often than there are spans.
  __device__ __forceinline__ int next(const Extent& extent) {
    while (word_ == 0 && ++index_ < mask_.word_count) word_ = mask_.listed(index_);
    return word_ != 0 ? take_bit() : next_summary(extent);
  }

  // Where the spans that are not plain come first: the next of them, the partial one last. Must not
  // be called more often than there are such spans.
  // By a whole warp.
  __device__ __forceinline__ int next_special(const Extent& extent) {
    while (groups_ == 0 && group_ < extent.summary_spans()) {
      groups_ = summary_groups(mask_, extent, group_ / 32);
      group_ += 32;
    }
    if (groups_ == 0) return extent.length >> extent.span_shift;
    const int group = group_ - 32 + __ffs(static_cast<int>(groups_)) - 1;
    groups_ &= groups_ - 1;
    return extent.token_spans + group;
  }

  // The next span where at least one span of tokens is left.
  __device__ __forceinline__ int next_listed() {
    while (word_ == 0) word_ = mask_.listed(++index_);
    return take_bit();
  }

 private:
  __device__ __forceinline__ int take_bit() {
    const int span = index_ * 32 + __ffs(static_cast<int>(word_)) - 1;
    word_ &= word_ - 1;
    return span;
  }

  __device__ __forceinline__ int next_summary(const Extent& extent) {
    while (!has_summaries(mask_, extent, group_)) group_++;
    return extent.token_spans + group_++;
  }

  TileMask<QueryBlocks> mask_;
  uint32_t word_;
  int index_ = 0;
  int group_ = 0;
  uint32_t groups_ = 0;  // of the 32 before group_, those with summaries that are left
};

using SpanWalk = TileWalk<1>;

// How many spans the walk gives. Plain spans, in which every key is one token, come first.
struct SpanCount {
  int plain;
  int total;

  __device__ __forceinline__ int special() const { return total - plain; }
};

// Every warp computes it for itself.
template <int QueryBlocks>
DEVICE_FN SpanCount count_spans(const TileMask<QueryBlocks>& mask, const Extent& e) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  int listed = 0, summaries = 0;
  // Not unrolled: a thread block of several tiles would keep what that needs in registers.
#pragma unroll 1
  for (int i = lane; i < mask.word_count; i += 32) listed += __popc(mask.listed(i));
  listed = __reduce_add_sync(~0u, listed);
  for (int group = 0; group < e.summary_spans(); group += 32) {
    summaries += __popc(summary_groups(mask, e, group / 32));
  }
  const int last = e.length >> e.span_shift;  // partial, or past the end
  const bool has_partial =
      e.length % e.span_keys() != 0 && (mask.listed(last / 32) >> (last % 32) & 1u) != 0;
  return {.plain = has_partial ? listed - 1 : listed, .total = listed + summaries};
}

// How many tokens key `column` of a span stands for; 0 where it is not attended.
DEVICE_FN int token_count(const SpanMask& mask, const Extent& e, int span, int column) {
  if (span < e.token_spans) return (span << e.span_shift) + column < e.length ? 1 : 0;
  const int block = ((span - e.token_spans) << e.span_shift) + column;
  if (block >= e.existing_blocks() || mask.covers(block << e.block_shift)) return 0;
  const int block_k = e.span_keys() << e.block_shift;
  return min(e.length - block * block_k, block_k);
}

}  // namespace paro::kernels::sparse_attention
