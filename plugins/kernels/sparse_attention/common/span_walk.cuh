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

// The mask rows of a query block in shared memory: one bit for each span, clear where the span
// contains no token.
struct SpanMask {
  const uint32_t* words;    // exact
  int word_count;           // span_mask_words
  const uint32_t* covered;  // exact or fine: those without a coarse summary; `words` without fine ones

  __device__ __forceinline__ bool has(int span) const {
    return (words[span / 32] >> (span % 32) & 1u) != 0;
  }
  __device__ __forceinline__ bool covers(int span) const {
    return (covered[span / 32] >> (span % 32) & 1u) != 0;
  }
};

// `source`: a mask row, one bit for each key block.
DEVICE_FN uint32_t span_word(const uint32_t* source, const Extent& e, int index) {
  uint32_t word = __ldg(source + (index >> e.block_shift));
  if (e.block_shift == 1) word = static_cast<uint32_t>(double_bits(word) >> index % 2 * 32);
  return word & existing_bits(e, index);
}

// `target`: the words of the exact spans, and then, where there is a row of fine blocks, those of
// the covered ones.
template <int Threads>
DEVICE_FN void load_span_mask(const uint32_t* exact, const uint32_t* fine, const Extent& e,
                              int word_count, uint32_t* target) {
  for (int i = static_cast<int>(threadIdx.x); i < word_count; i += Threads) {
    const uint32_t word = span_word(exact, e, i);
    target[i] = word;
    if (fine != nullptr) target[word_count + i] = word | span_word(fine, e, i);
  }
}

// Bits of word `index` whose spans exist and belong to a block that is neither exact nor fine, so
// that its summary token is attended. 0 past the last word.
DEVICE_FN uint32_t summarized_bits(const SpanMask& mask, const Extent& e, int index) {
  return index < mask.word_count ? ~mask.covered[index] & existing_bits(e, index) : 0;
}

// Whether the span of the summary tokens of group `group` has one that is attended.
DEVICE_FN bool has_summaries(const SpanMask& mask, const Extent& e, int group) {
  const int words = e.span_keys() / 32 << e.block_shift, first = group * words;
  uint32_t remaining = 0;
#pragma unroll 1
  for (int i = first; i < first + words; i++) remaining |= summarized_bits(mask, e, i);
  return remaining != 0;
}

// Of groups 32 `index` .. those that have summaries. By a whole warp.
DEVICE_FN uint32_t summary_groups(const SpanMask& mask, const Extent& e, int index) {
  const int group = index * 32 + static_cast<int>(threadIdx.x % 32);
  return __ballot_sync(~0u, group < e.summary_spans() && has_summaries(mask, e, group));
}

// Bits of the keys 32 `part` .. of a span that are attended: tokens that exist, or summary tokens.
DEVICE_FN uint32_t attended_keys(const SpanMask& mask, const Extent& e, int span, int part) {
  if (span < e.token_spans) return low_bits(e.length - (span << e.span_shift) - part * 32);
  const int word = (((span - e.token_spans) << e.span_shift) / 32 + part) << e.block_shift;
  if (e.block_shift == 0) return summarized_bits(mask, e, word);
  return halve_bits(summarized_bits(mask, e, word) |
                    uint64_t{summarized_bits(mask, e, word + 1)} << 32);
}

// The walk. Every thread that uses one computes the same spans.
class SpanWalk {
 public:
  __device__ __forceinline__ SpanWalk(const SpanMask& mask) : mask_(mask), word_(mask.words[0]) {}

  // The next span. Must not be called more often than there are spans.
  __device__ __forceinline__ int next(const Extent& extent) {
    while (word_ == 0 && ++index_ < mask_.word_count) word_ = mask_.words[index_];
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
    while (word_ == 0) word_ = mask_.words[++index_];
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

  SpanMask mask_;
  uint32_t word_;
  int index_ = 0;
  int group_ = 0;
  uint32_t groups_ = 0;  // of the 32 before group_, those with summaries that are left
};

// How many spans the walk gives. Plain spans, in which every key is one token, come first.
struct SpanCount {
  int plain;
  int total;

  __device__ __forceinline__ int special() const { return total - plain; }
};

// Every warp computes it for itself.
DEVICE_FN SpanCount count_spans(const SpanMask& mask, const Extent& e) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  int listed = 0, summaries = 0;
  for (int i = lane; i < mask.word_count; i += 32) listed += __popc(mask.words[i]);
  listed = __reduce_add_sync(~0u, listed);
  for (int group = 0; group < e.summary_spans(); group += 32) {
    summaries += __popc(summary_groups(mask, e, group / 32));
  }
  const bool has_partial = e.length % e.span_keys() != 0 && mask.has(e.length >> e.span_shift);
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
