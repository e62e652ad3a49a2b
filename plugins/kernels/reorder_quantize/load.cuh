// Loads the rows of a key block: tokens, gathered in a head's order and preconditioned, or means.
#pragma once

#include "kernels/reorder_quantize/tile.cuh"
#include "ptx/cp_async.cuh"

namespace paro::kernels::reorder_quantize {

enum class Side { key, value };

// Writes the affine (x - shift) * factor of the unit's channels to shared memory. A division takes
// as long as the rest of a thread's work for eight elements, so each channel has one thread.
template <int D, int BlockK>
DEVICE_FN void write_affine(const ReorderParams& p, Side side, int kv_head,
                            SharedMemory<D, BlockK>& shared) {
  const bool is_key = side == Side::key;
  const paro_affine_row mean_row = is_key ? PARO_KEY_MEAN : PARO_VALUE_MEAN;
  const paro_affine_row divisor_row = is_key ? PARO_EQUALIZER : PARO_VALUE_SCALE;
  const int channel = static_cast<int>(threadIdx.x);
  static_assert(D <= TileMap<D, BlockK>::threads, "every channel has a thread");
  if (channel >= D) return;
  shared.shift[channel] = __ldg(affine_row(p.geometry, p.plan, mean_row, kv_head, D) + channel);
  shared.factor[channel] =
      __frcp_rn(__ldg(affine_row(p.geometry, p.plan, divisor_row, kv_head, D) + channel));
}

DEVICE_FN Channels8 read_channels(const float* source) {
  const auto* quads = reinterpret_cast<const float4*>(source);
  const float4 low = quads[0], high = quads[1];
  return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
}

DEVICE_FN void write_channels(const Channels8& c, float* target) {
  auto* quads = reinterpret_cast<float4*>(target);
  quads[0] = {c.x[0], c.x[1], c.x[2], c.x[3]};
  quads[1] = {c.x[4], c.x[5], c.x[6], c.x[7]};
}

DEVICE_FN Channels8 apply(const Channels8& shift, const Channels8& factor, const Channels8& c) {
  Channels8 result;
#pragma unroll
  for (int i = 0; i < 8; i++) result.x[i] = (c.x[i] - shift.x[i]) * factor.x[i];
  return result;
}

// The tokens of a unit's reordered sequence, from a key block on, one block after the other. Tokens
// are fetched a block ahead of their use. Their numbers are read one block earlier still, since a
// fetch needs them.
template <int D, int BlockK>
struct TokenStream {
  using Map = TileMap<D, BlockK>;
  static constexpr int row_bytes = Map::threads * int{sizeof(uint4)};  // of all threads

  Map map;
  int left;               // tokens that exist from the thread's first row of the current block on
  int count;              // tokens in the tensors
  const uint8_t* source;  // the thread's channels of token 0
  uint32_t token_bytes;   // from a token to the next
  uint32_t fetched;       // the thread's part of SharedMemory::fetched, in the shared window
  const int32_t* order;   // of the thread's first row of the current block
  int tokens[Map::rows_per_thread];  // that were read last

  DEVICE_FN TokenStream of(const ReorderParams& p, Side side, const Unit& unit, int first_block,
                           SharedMemory<D, BlockK>& shared) {
    const Geometry& g = p.geometry;
    const auto map = Map::of_thread();
    const auto* base = static_cast<const uint8_t*>(side == Side::key ? p.key : p.value);
    const int64_t sample = static_cast<int64_t>(unit.sample) * g.tokens * g.kv_heads;
    const int first = first_block * BlockK + map.first_row;
    return {.map = map,
            .left = length_of(g, p.plan, unit.sample) - first,
            .count = g.tokens,
            .source = base + ((sample + unit.kv_head) * D + map.first_channel) * 2,
            .token_bytes = static_cast<uint32_t>(g.kv_heads) * D * 2,
            .fetched = ptx::shared_u32(&shared.fetched[0][threadIdx.x]),
            .order = order_of(g, p.plan, unit.kv_head * (g.heads / g.kv_heads)) + first,
            .tokens = {}};
  }

  // Whether the thread's row i of the block `ahead` of the current one exists.
  __device__ __forceinline__ bool exists(int ahead, int i) const {
    return left > ahead * BlockK + i * Map::row_stride;
  }

  // Tokens of the current block that exist; 1 where none does.
  __device__ __forceinline__ int block_tokens() const {
    return min(max(left + map.first_row, 1), BlockK);
  }

  // Reads which tokens that block has; 0 where none exists.
  __device__ __forceinline__ void read_tokens(int ahead) {
#pragma unroll
    for (int i = 0; i < Map::rows_per_thread; i++) {
      tokens[i] = 0;
      if (exists(ahead, i)) tokens[i] = __ldg(order + ahead * BlockK + i * Map::row_stride);
    }
  }

  // Starts the copies of that block, whose tokens were read last; zeros where none exists.
  __device__ __forceinline__ void fetch(int ahead) const {
#pragma unroll
    for (int i = 0; i < Map::rows_per_thread; i++) {
      const auto token = static_cast<uint32_t>(clamp_index(tokens[i], count, "token_order"));
      ptx::cp_async_16(fetched + static_cast<uint32_t>(i * row_bytes),
                       source + static_cast<uint64_t>(token) * token_bytes, exists(ahead, i));
    }
  }

  // Waits for the block that was fetched last, and takes it out of shared memory.
  __device__ __forceinline__ void take(const SharedMemory<D, BlockK>& shared,
                                       RawRows<D, BlockK>& raw) const {
    ptx::cp_async_wait_all();
#pragma unroll
    for (int i = 0; i < Map::rows_per_thread; i++) raw[i] = shared.fetched[i][threadIdx.x];
  }

  __device__ __forceinline__ void advance() {
    left -= BlockK;
    order += BlockK;
  }
};

// Raw rows as floats, preconditioned for integer numbers. Absent tokens stay zeros, which the
// affine would move: they must not enter a scale or a mean.
template <Number Source, bool Affine, int D, int BlockK>
DEVICE_FN void precondition(const TokenStream<D, BlockK>& stream,
                            const RawRows<D, BlockK>& raw, const SharedMemory<D, BlockK>& shared,
                            Rows<D, BlockK>& rows) {
  Channels8 shift, factor;
  if constexpr (Affine) {
    shift = read_channels(shared.shift + stream.map.first_channel);
    factor = read_channels(shared.factor + stream.map.first_channel);
  }
#pragma unroll
  for (int i = 0; i < TileMap<D, BlockK>::rows_per_thread; i++) {
    rows[i] = channels_from_16bit(raw[i], Source == Number::bf16);
    if (Affine && stream.exists(0, i)) rows[i] = apply(shift, factor, rows[i]);
  }
}

// Loads the means of blocks summary_block * BlockK ..., and zeros for blocks that contain no token.
template <int D, int BlockK>
DEVICE_FN void load_means(const ReorderParams& p, Side side, const Unit& unit, int summary_block,
                          const TileMap<D, BlockK>& map, Rows<D, BlockK>& rows) {
  const Geometry& g = p.geometry;
  const int existing = (length_of(g, p.plan, unit.sample) + BlockK - 1) / BlockK;
  const float* means = side == Side::key ? p.means.key : p.means.value;
#pragma unroll
  for (int i = 0; i < TileMap<D, BlockK>::rows_per_thread; i++) {
    const int block = summary_block * BlockK + map.row(i);
    rows[i] = {};
    if (block >= existing) continue;
    const int64_t row = static_cast<int64_t>(unit.index) * g.key_blocks + block;
    rows[i] = read_channels(means + row * D + map.first_channel);
  }
}

}  // namespace paro::kernels::reorder_quantize
