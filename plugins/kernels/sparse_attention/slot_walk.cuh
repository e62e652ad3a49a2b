// What a query block attends, slot by slot: the slots of listed key blocks in ascending order, then
// the summary tokens of the other blocks. Decoded from the bit-packed mask row; no list is written.
#pragma once

#include "kernels/device_plan.cuh"

namespace paro::kernels::sparse_attention {

// The sequence a query block meets.
struct Extent {
  int length;       // tokens that exist
  int slot_shift;   // log2 of the keys in a slot
  int block_shift;  // log2 of the slots in a key block
  int token_slots;  // of all NK blocks; slots of summary tokens follow
  bool pooled;

  // Slots and blocks in which a token exists.
  __device__ __forceinline__ int slot_keys() const { return 1 << slot_shift; }
  __device__ __forceinline__ int existing_slots() const {
    return (length + slot_keys() - 1) >> slot_shift;
  }
  __device__ __forceinline__ int existing_blocks() const {
    return (existing_slots() + (1 << block_shift) - 1) >> block_shift;
  }
  // Groups of as many blocks as a slot has keys: each has a slot of summary tokens.
  __device__ __forceinline__ int summary_slots() const {
    return pooled ? (existing_blocks() + slot_keys() - 1) >> slot_shift : 0;
  }
};

template <int SlotKeys>
DEVICE_FN Extent extent_of(const Geometry& g, int length) {
  const int block_shift = g.block_k == SlotKeys ? 0 : 1;
  return {length, SlotKeys == 64 ? 6 : 7, block_shift, g.key_blocks << block_shift,
          g.summary_blocks > 0};
}

// Each bit twice: a block's bit for both of its slots.
DEVICE_FN uint64_t double_bits(uint32_t bits) {
  uint64_t x = bits;
  x = (x | x << 16) & 0x0000FFFF0000FFFFull;
  x = (x | x << 8) & 0x00FF00FF00FF00FFull;
  x = (x | x << 4) & 0x0F0F0F0F0F0F0F0Full;
  x = (x | x << 2) & 0x3333333333333333ull;
  x = (x | x << 1) & 0x5555555555555555ull;
  return x | x << 1;
}

// Bits of word `index` that are slots with tokens.
DEVICE_FN uint32_t existing_bits(const Extent& e, int index) {
  const int bits = min(max(e.existing_slots() - index * 32, 0), 32);
  return bits == 0 ? 0u : ~0u >> (32 - bits);
}

// A query block's mask row in shared memory, a bit a slot; none set where no token exists.
struct MaskRow {
  const uint32_t* words;
  int word_count;

  __device__ __forceinline__ bool has(int slot) const {
    return (words[slot / 32] >> (slot % 32) & 1u) != 0;
  }
};

// Words of a MaskRow for a sequence of NK blocks.
constexpr int mask_row_words(int key_blocks, int block_k, int slot_keys) {
  return (key_blocks * (block_k / slot_keys) + 31) / 32;
}

template <int Threads>
DEVICE_FN void load_mask(const uint32_t* source, const Extent& e, int word_count,
                         uint32_t* target) {
  for (int i = static_cast<int>(threadIdx.x); i < word_count; i += Threads) {
    uint32_t word = __ldg(source + (i >> e.block_shift));
    if (e.block_shift == 1) word = static_cast<uint32_t>(double_bits(word) >> i % 2 * 32);
    target[i] = word & existing_bits(e, i);
  }
}

// Whether a block of group `group` is off the mask, so that its summary token is attended.
DEVICE_FN bool has_summaries(const MaskRow& mask, const Extent& e, int group) {
  const int words = e.slot_keys() / 32 << e.block_shift, first = group * words;
  uint32_t remaining = 0;
  for (int i = first; i < min(first + words, mask.word_count); i++) {
    remaining |= ~mask.words[i] & existing_bits(e, i);
  }
  return remaining != 0;
}

// Uniform over the thread block: every thread walks alike.
class SlotWalk {
 public:
  __device__ __forceinline__ SlotWalk(const MaskRow& mask) : mask_(mask), word_(mask.words[0]) {}

  // The next slot; called no more often than there are slots.
  __device__ __forceinline__ int next(const Extent& extent) {
    while (word_ == 0 && ++index_ < mask_.word_count) word_ = mask_.words[index_];
    return word_ != 0 ? take_bit() : next_summary(extent);
  }

  // The same while a slot of tokens is left for certain.
  __device__ __forceinline__ int next_listed() {
    while (word_ == 0) word_ = mask_.words[++index_];
    return take_bit();
  }

 private:
  __device__ __forceinline__ int take_bit() {
    const int slot = index_ * 32 + __ffs(static_cast<int>(word_)) - 1;
    word_ &= word_ - 1;
    return slot;
  }

  __device__ __forceinline__ int next_summary(const Extent& extent) {
    while (!has_summaries(mask_, extent, group_)) group_++;
    return extent.token_slots + group_++;
  }

  MaskRow mask_;
  uint32_t word_;
  int index_ = 0;
  int group_ = 0;
};

// Slots the walk will give: plain ones, full of tokens, come first.
struct SlotCount {
  int plain;
  int total;
};

// Computed by every warp for itself.
DEVICE_FN SlotCount count_slots(const MaskRow& mask, const Extent& e) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  int listed = 0, summaries = 0;
  for (int i = lane; i < mask.word_count; i += 32) listed += __popc(mask.words[i]);
  for (int group = lane; group < e.summary_slots(); group += 32) {
    summaries += has_summaries(mask, e, group) ? 1 : 0;
  }
  listed = __reduce_add_sync(~0u, listed);
  summaries = __reduce_add_sync(~0u, summaries);
  const bool has_partial = e.length % e.slot_keys() != 0 && mask.has(e.length >> e.slot_shift);
  return {has_partial ? listed - 1 : listed, listed + summaries};
}

// How many tokens key `column` of a slot stands for; 0: it is not attended.
DEVICE_FN int token_count(const MaskRow& mask, const Extent& e, int slot, int column) {
  if (slot < e.token_slots) return (slot << e.slot_shift) + column < e.length ? 1 : 0;
  const int block = ((slot - e.token_slots) << e.slot_shift) + column;
  if (block >= e.existing_blocks() || mask.has(block << e.block_shift)) return 0;
  const int block_k = e.slot_keys() << e.block_shift;
  return min(e.length - block * block_k, block_k);
}

}  // namespace paro::kernels::sparse_attention
