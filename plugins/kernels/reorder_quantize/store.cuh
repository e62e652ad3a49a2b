// Quantizes keys and values and stores the tiles as stage 2 reads them.
#pragma once

#include "kernels/reorder_quantize/load.cuh"
#include "kernels/swizzle.cuh"
#include "kernels/value_order.h"

namespace paro::kernels::reorder_quantize {

template <int D, int BlockK>
using Rows = Channels8[TileMap<D, BlockK>::rows_per_thread];

// Largest magnitude of the whole block, in every thread.
template <int D, int BlockK>
DEVICE_FN uint32_t block_magnitude(const Rows<D, BlockK>& rows, SharedMemory<D, BlockK>& shared) {
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < TileMap<D, BlockK>::rows_per_thread; i++) {
    largest = max(largest, largest_magnitude(rows[i]));
  }
  largest = __reduce_max_sync(~0u, largest);
  if (threadIdx.x % 32 == 0) shared.warp_magnitude[threadIdx.x / 32] = largest;
  __syncthreads();  // sync: every warp's maximum is written
#pragma unroll
  for (int warp = 0; warp < warps; warp++) largest = max(largest, shared.warp_magnitude[warp]);
  __syncthreads();  // sync: every thread has read them
  return largest;
}

// Largest magnitudes over the block's rows of the thread's eight channels.
template <int D, int BlockK>
DEVICE_FN void channel_magnitudes(const TileMap<D, BlockK>& map, const Rows<D, BlockK>& rows,
                                  SharedMemory<D, BlockK>& shared, uint32_t (&largest)[8]) {
  using Map = TileMap<D, BlockK>;
#pragma unroll
  for (int channel = 0; channel < 8; channel++) {
    uint32_t own = 0;
#pragma unroll
    for (int i = 0; i < Map::rows_per_thread; i++) {
      own = max(own, magnitude_bits(rows[i].x[channel]));
    }
    // Lanes that hold the same channels are lanes_per_row apart.
#pragma unroll
    for (int distance = Map::lanes_per_row; distance < 32; distance *= 2) {
      own = max(own, __shfl_xor_sync(~0u, own, distance));
    }
    shared.channel_magnitude[threadIdx.x / 32][map.first_channel + channel] = own;
  }
  __syncthreads();  // sync: every warp's maxima are written
#pragma unroll
  for (int channel = 0; channel < 8; channel++) {
    largest[channel] = 0;
#pragma unroll
    for (int warp = 0; warp < warps; warp++) {
      largest[channel] =
          max(largest[channel], shared.channel_magnitude[warp][map.first_channel + channel]);
    }
  }
  __syncthreads();  // sync: every thread has read them
}

// Rows in their own order, 16 bits.
template <Number Source, int D, int BlockK>
DEVICE_FN void store_16bit(const TileMap<D, BlockK>& map, const Rows<D, BlockK>& rows,
                           int64_t block, bool is_bfloat16, uint8_t* tiles) {
  using Map = TileMap<D, BlockK>;
  auto* target = reinterpret_cast<uint4*>(tiles + block * BlockK * D * 2);
#pragma unroll
  for (int i = 0; i < Map::rows_per_thread; i++) {
    const int row = map.first_row + i * Map::row_stride;
    target[(row * D + map.first_channel) / 8] = channels_to_16bit(rows[i], is_bfloat16);
  }
}

// Where byte `byte` of row `row` lies in a tile of 8-bit codes.
template <int RowBytes>
DEVICE_FN int place_in_tile(TileLayout layout, int row, int byte) {
  if (layout == TileLayout::rows) return row * RowBytes + byte;
  const uint32_t chunk =
      swizzled_offset<RowBytes>(static_cast<uint32_t>(row), static_cast<uint32_t>(byte) / 16);
  return static_cast<int>(chunk) + byte % 16;
}

// Rows of codes in channel order.
template <int D, int BlockK>
DEVICE_FN void store_key_codes(const ReorderParams& p, const TileMap<D, BlockK>& map,
                               const Rows<D, BlockK>& rows, int64_t block, float inverse) {
  using Map = TileMap<D, BlockK>;
  uint8_t* tile = p.prepared.key + block * BlockK * D * bits_of(p.key_number) / 8;
#pragma unroll
  for (int i = 0; i < Map::rows_per_thread; i++) {
    const int row = map.first_row + i * Map::row_stride;
    const Channels8 codes = scaled(rows[i], inverse);
    if (p.key_number == Number::s8) {
      const int place = place_in_tile<D>(p.layout, row, map.first_channel);
      *reinterpret_cast<uint2*>(tile + place) = codes_s8(codes);
    } else {
      *reinterpret_cast<uint32_t*>(tile + (row * D + map.first_channel) / 2) = codes_s4(codes);
    }
  }
}

// Byte j of word i becomes byte i of word j.
DEVICE_FN void transpose_bytes(uint32_t (&w)[4]) {
  const uint32_t low01 = __byte_perm(w[0], w[1], 0x5140), high01 = __byte_perm(w[0], w[1], 0x7362);
  const uint32_t low23 = __byte_perm(w[2], w[3], 0x5140), high23 = __byte_perm(w[2], w[3], 0x7362);
  w[0] = __byte_perm(low01, low23, 0x5410);
  w[1] = __byte_perm(low01, low23, 0x7632);
  w[2] = __byte_perm(high01, high23, 0x5410);
  w[3] = __byte_perm(high01, high23, 0x7632);
}

// Codes of channels first_channel .. + 3 of four keys, a word a channel.
template <int D, int BlockK>
DEVICE_FN void channel_words(const SharedMemory<D, BlockK>& shared, const int (&keys)[4],
                             int first_channel, uint32_t (&words)[4]) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    words[i] = *reinterpret_cast<const uint32_t*>(&shared.codes[keys[i]][first_channel]);
  }
  transpose_bytes(words);
}

// Stores the block's codes, which are in shared memory, as tiles of 64 keys, [D][64] in value
// order.
template <int D, int BlockK>
DEVICE_FN void store_value_tiles(const SharedMemory<D, BlockK>& shared, int64_t block,
                                 Number number, TileLayout layout, uint8_t* tiles) {
  const int codes_per_word = number == Number::s8 ? 4 : 8;
  const int words_per_channel = value_tile_keys / codes_per_word;
  const int pieces = BlockK / value_tile_keys * (D / 4) * words_per_channel;
  const int64_t tile_words = D * words_per_channel;
  auto* target =
      reinterpret_cast<uint32_t*>(tiles) + block * (BlockK / value_tile_keys) * tile_words;
  // A piece is one word of each of four adjacent channels. Adjacent threads write adjacent words.
  for (int piece = static_cast<int>(threadIdx.x); piece < pieces; piece += threads) {
    const int word = piece % words_per_channel, quad = piece / words_per_channel % (D / 4);
    const int tile = piece / words_per_channel / (D / 4);
    uint32_t words[4];
    int keys[4];
    if (number == Number::s8) {
      for (int i = 0; i < 4; i++) keys[i] = tile * value_tile_keys + value_key_s8(word * 4 + i);
      channel_words(shared, keys, quad * 4, words);
    } else {
      uint32_t odd[4];
      for (int i = 0; i < 4; i++)
        keys[i] = tile * value_tile_keys + value_key_s4(word * 8 + 2 * i + 1);
      channel_words(shared, keys, quad * 4, odd);
      for (int i = 0; i < 4; i++) keys[i] = tile * value_tile_keys + value_key_s4(word * 8 + 2 * i);
      channel_words(shared, keys, quad * 4, words);
      for (int i = 0; i < 4; i++) words[i] = interleave_nibbles(words[i], odd[i]);
    }
    for (int i = 0; i < 4; i++) {
      const int channel = quad * 4 + i;
      const int place = number == Number::s8
                            ? place_in_tile<value_tile_keys>(layout, channel, word * 4) / 4
                            : channel * words_per_channel + word;
      target[tile * tile_words + place] = words[i];
    }
  }
}

template <Number Source, int D, int BlockK>
DEVICE_FN void store_keys(const ReorderParams& p, const TileMap<D, BlockK>& map,
                          const Rows<D, BlockK>& rows, int64_t block, bool is_bfloat16,
                          SharedMemory<D, BlockK>& shared) {
  if (!is_integer(p.key_number)) {
    store_16bit<Source>(map, rows, block, is_bfloat16, p.prepared.key);
    return;
  }
  const Scale scale = scale_of(block_magnitude(rows, shared), levels_of(p.key_number));
  store_key_codes(p, map, rows, block, scale.inverse);
  if (threadIdx.x == 0) p.prepared.key_scale[block] = scale.scale;
}

// One scale a block at 8 bits, one a channel at 4.
template <Number Source, int D, int BlockK>
DEVICE_FN void store_values(const ReorderParams& p, const TileMap<D, BlockK>& map,
                            const Rows<D, BlockK>& rows, int64_t block, bool is_bfloat16,
                            SharedMemory<D, BlockK>& shared) {
  using Map = TileMap<D, BlockK>;
  if (!is_integer(p.value_number)) {
    store_16bit<Source>(map, rows, block, is_bfloat16, p.prepared.value);
    return;
  }
  float inverse[8];
  if (p.value_number == Number::s8) {
    const Scale scale = scale_of(block_magnitude(rows, shared), levels_of(Number::s8));
#pragma unroll
    for (int i = 0; i < 8; i++) inverse[i] = scale.inverse;
    if (threadIdx.x == 0) p.prepared.value_scale[block] = scale.scale;
  } else {
    uint32_t largest[8];
    channel_magnitudes(map, rows, shared, largest);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const Scale scale = scale_of(largest[i], levels_of(Number::s4));
      inverse[i] = scale.inverse;
      if (map.first_row == 0) {
        p.prepared.value_scale[block * D + map.first_channel + i] = scale.scale;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < Map::rows_per_thread; i++) {
    const uint2 codes = codes_s8(scaled(rows[i], inverse));
    auto* target = reinterpret_cast<uint32_t*>(
        &shared.codes[map.first_row + i * Map::row_stride][map.first_channel]);
    target[0] = codes.x;
    target[1] = codes.y;
  }
  __syncthreads();  // sync: all codes of the block are in shared memory
  store_value_tiles(shared, block, p.value_number, p.layout, p.prepared.value);
}

}  // namespace paro::kernels::reorder_quantize
