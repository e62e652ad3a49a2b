// Quantizes keys and values and stores the tiles as stage 2 reads them.
//
// Quantizing a block takes two or three parts with a barrier between them, in which the caller does
// more work (kernel.cuh): each thread writes the largest magnitudes of its part; all threads read
// them and make codes; values are transposed through shared memory.
#pragma once

#include "kernels/reorder_quantize/load.cuh"
#include "kernels/swizzle.cuh"
#include "kernels/value_order.h"
#include "ptx/ldmatrix.cuh"

namespace paro::kernels::reorder_quantize {

// 4-bit values have a scale for each channel, all other integers one for the block.
constexpr bool scales_channels(Side side, Number number) {
  return side == Side::value && number == Number::s4;
}

// The larger magnitude; NaN where either is NaN.
DEVICE_FN float larger_magnitude(float largest, float x) {
  return ptx::maximum_or_nan(largest, fabsf(x));
}

template <int D, int BlockK>
DEVICE_FN void write_block_magnitude(const Rows<D, BlockK>& rows,
                                     SharedMemory<D, BlockK>& shared) {
  // A maximum for each row: they do not wait for each other.
  float largest = 0.0f;
#pragma unroll
  for (const Channels8& row : rows) {
    float of_row = fabsf(row.x[0]);
#pragma unroll
    for (int i = 1; i < 8; i++) of_row = larger_magnitude(of_row, row.x[i]);
    largest = larger_magnitude(largest, of_row);
  }
  const uint32_t of_warp = __reduce_max_sync(~0u, magnitude_bits(largest));
  if (threadIdx.x % 32 == 0) {
    reinterpret_cast<uint32_t*>(shared.warp_magnitudes)[threadIdx.x / 32] = of_warp;
  }
}

template <int D, int BlockK>
DEVICE_FN uint32_t read_block_magnitude(const SharedMemory<D, BlockK>& shared) {
  uint32_t largest = 0;
#pragma unroll
  for (const uint4& of_warps : shared.warp_magnitudes) {
    const uint4 m = of_warps;
    largest = max(largest, max(max(m.x, m.y), max(m.z, m.w)));
  }
  return largest;
}

template <int D, int BlockK>
DEVICE_FN void write_channel_magnitudes(const TileMap<D, BlockK>& map,
                                        const Rows<D, BlockK>& rows,
                                        SharedMemory<D, BlockK>& shared) {
  Channels8 largest{};
#pragma unroll
  for (const Channels8& row : rows) {
#pragma unroll
    for (int i = 0; i < 8; i++) largest.x[i] = larger_magnitude(largest.x[i], row.x[i]);
  }
  write_channels(largest, &shared.magnitudes[map.first_row][map.first_channel]);
}

// Scales of the block's channels: a thread for each channel stores its scale, and leaves what codes
// are multiplied by.
template <int D, int BlockK>
DEVICE_FN void store_channel_scales(SharedMemory<D, BlockK>& shared, float* scales) {
  const int channel = static_cast<int>(threadIdx.x);
  if (channel >= D) return;
  float largest = 0.0f;
#pragma unroll
  for (int i = 0; i < TileMap<D, BlockK>::row_stride; i++) {
    largest = larger_magnitude(largest, shared.magnitudes[i][channel]);
  }
  const Scale scale = scale_of(magnitude_bits(largest), levels_of(Number::s4));
  shared.inverse[channel] = scale.inverse;
  scales[channel] = scale.scale;
}

// The tile of key block `block` of the workspace.
template <Side side, Number Stored, int D, int BlockK>
DEVICE_FN uint8_t* tile_of(const ReorderParams& p, int64_t block) {
  constexpr int64_t block_bytes = BlockK * D * bits_of(Stored) / 8;
  return (side == Side::key ? p.prepared.key : p.prepared.value) + block * block_bytes;
}

// Rows in their own order, 16 bits.
template <Side side, int D, int BlockK>
DEVICE_FN void store_16bit(const ReorderParams& p, const TileMap<D, BlockK>& map,
                           const RawRows<D, BlockK>& raw, int64_t block) {
  uint8_t* tile = tile_of<side, Number::f16, D, BlockK>(p, block);
  auto* target = reinterpret_cast<uint4*>(tile + (map.first_row * D + map.first_channel) * 2);
#pragma unroll
  for (int i = 0; i < TileMap<D, BlockK>::rows_per_thread; i++) {
    target[i * TileMap<D, BlockK>::row_stride * D / 8] = raw[i];
  }
}

// Where byte `byte` of row `row` lies in a tile of 8-bit codes. Rows a multiple of 8 apart are
// permuted alike.
template <int RowBytes>
DEVICE_FN uint32_t place_in_tile(TileLayout layout, uint32_t row, uint32_t byte) {
  if (layout == TileLayout::rows) return row * RowBytes + byte;
  return swizzled_offset<RowBytes>(row, byte / 16) + byte % 16;
}

// The row of SharedMemory::codes that holds a key. One ldmatrix reads eight keys at once, those of
// bits 0, 4, 5 at 8 bits and 0, 2, 5 at 4 (value_keys): they become eight rows in sequence. Bits
// stay bits, so the row of a sum of disjoint bits is the sum of rows.
template <Number Stored>
DEVICE_FN uint32_t code_row(uint32_t key) {
  if constexpr (Stored == Number::s8) {
    return (key & 64) | (key >> 1 & 7) << 3 | (key >> 4 & 3) << 1 | (key & 1);
  } else {
    return (key & 64) | (key >> 3 & 3) << 4 | (key >> 1 & 1) << 3 | (key >> 5 & 1) << 2 |
           (key >> 2 & 1) << 1 | (key & 1);
  }
}

// Rows of codes in channel order, to `target`.
template <Number Stored, int D, int BlockK>
DEVICE_FN void store_key_codes(const Rows<D, BlockK>& rows, float inverse, uint8_t* target) {
  using Map = TileMap<D, BlockK>;
#pragma unroll
  for (int i = 0; i < Map::rows_per_thread; i++) {
    const Channels8 codes = scaled(rows[i], inverse);
    uint8_t* row = target + i * Map::row_stride * D * bits_of(Stored) / 8;
    if constexpr (Stored == Number::s8) {
      *reinterpret_cast<uint2*>(row) = codes_s8(codes);
    } else {
      *reinterpret_cast<uint32_t*>(row) = codes_s4(codes);
    }
  }
}

// The key (0..63) whose codes row `row` of matrix `matrix` holds for store_value_tiles. Lane l of
// four receives rows 2 l and 2 l + 1: of the matrices 2 w and 2 w + 1, together, the four keys of
// word w of its run of words, in value order. At 8 bits a run is the four words of quarter l of a
// channel's 64 keys. At 4 it is two words, of which matrices 4 to 7 hold the odd nibbles.
template <Number Stored>
DEVICE_FN uint32_t value_key_of_matrix(uint32_t matrix, uint32_t row) {
  const uint32_t lane = row / 2, word = matrix / 2, byte = matrix % 2 * 2 + row % 2;
  if constexpr (Stored == Number::s8) {
    return value_key_s8((lane * 4 + word) * 4 + byte);
  } else {
    return value_key_s4((lane * 2 + word % 2) * 8 + byte * 2 + word / 2);
  }
}

// `value`, which the compiler does not look into: what it is computed from has fewer registers, and
// it would compute it anew in every turn of a loop.
DEVICE_FN uint32_t kept(uint32_t value) {
  return __shfl_sync(~0u, value, static_cast<int>(threadIdx.x % 32));
}

// Where a thread's codes lie, which is the same in every block.
template <Side side, Number Stored, int D, int BlockK>
struct CodePlaces {
  using Map = TileMap<D, BlockK>;
  static constexpr uint32_t chunks = D / 16;  // of 16 channels
  static_assert(Map::warps % chunks == 0, "a warp has the same channels of every value tile");
  static constexpr uint32_t value_row_bytes = value_tile_keys * bits_of(Stored) / 8;
  static constexpr uint32_t value_tile_bytes = D * value_row_bytes;

  uint32_t target;    // in the tile
  uint32_t codes;     // of values: of the thread's first row in SharedMemory::codes
  uint32_t matrices;  // and what the thread reads from it, in the shared window

  DEVICE_FN CodePlaces of(TileLayout layout, SharedMemory<D, BlockK>& shared) {
    const auto map = Map::of_thread();
    const auto row = static_cast<uint32_t>(map.first_row);
    const auto channel = static_cast<uint32_t>(map.first_channel);
    if constexpr (side == Side::key) {
      return {kept(Stored == Number::s8 ? place_in_tile<D>(layout, row, channel)
                                        : (row * D + channel) / 2),
              0, 0};
    } else {
      constexpr uint32_t code_row_bytes = SharedMemory<D, BlockK>::code_row_bytes;
      const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
      const uint32_t tile = warp / chunks, chunk = warp % chunks;
      const uint32_t key =
          tile * value_tile_keys + value_key_of_matrix<Stored>(lane / 8, lane % 8);
      // Two channels, chunk * 16 + lane / 4 * 2 and the one after it, and a quarter of their keys.
      const uint32_t place = place_in_tile<value_row_bytes>(
          layout, chunk * 16 + lane / 4 * 2, lane % 4 * (value_row_bytes / 4));
      return {kept(tile * value_tile_bytes + place),
              kept(code_row<Stored>(row) * code_row_bytes + channel),
              kept(ptx::shared_u32(&shared.codes[code_row<Stored>(key)][chunk * 16]))};
    }
  }
};

// Codes of all rows to shared memory, a byte each. `inverse`: of the channels' scales.
template <Number Stored, int D, int BlockK>
DEVICE_FN void write_value_codes(const Rows<D, BlockK>& rows, const float (&inverse)[8],
                                 uint8_t* codes) {
#pragma unroll
  for (uint32_t i = 0; i < TileMap<D, BlockK>::rows_per_thread; i++) {
    const uint32_t distance = code_row<Stored>(i * TileMap<D, BlockK>::row_stride);
    *reinterpret_cast<uint2*>(codes + distance * SharedMemory<D, BlockK>::code_row_bytes) =
        codes_s8(scaled(rows[i], inverse));
  }
}

// Stores the block's codes, which are in shared memory, as tiles of 64 keys, [D][64] in value
// order. A warp transposes 64 keys of 16 channels at a time: as pairs of channels, which are 16-bit
// elements for ldmatrix, and then by bytes.
template <Number Stored, int D, int BlockK>
DEVICE_FN void store_value_tiles(const CodePlaces<Side::value, Stored, D, BlockK>& places,
                                 uint8_t* tiles) {
  using Places = CodePlaces<Side::value, Stored, D, BlockK>;
  constexpr uint32_t code_row_bytes = SharedMemory<D, BlockK>::code_row_bytes;
  constexpr uint32_t second = Stored == Number::s8 ? 4 : 16;  // keys from matrix 0 to matrix 4
  constexpr uint32_t tiles_at_once = Places::Map::warps / Places::chunks;
#pragma unroll
  for (uint32_t tile = 0; tile < BlockK / value_tile_keys; tile += tiles_at_once) {
    const uint32_t source =
        places.matrices + code_row<Stored>(tile * value_tile_keys) * code_row_bytes;
    uint32_t r[2][4];
    ptx::ldmatrix_x4_trans(r[0], source);
    ptx::ldmatrix_x4_trans(r[1], source + code_row<Stored>(second) * code_row_bytes);
#pragma unroll
    for (uint32_t odd = 0; odd < 2; odd++) {
      const uint32_t bytes = odd == 0 ? 0x6420 : 0x7531;
      uint32_t words[4];
#pragma unroll
      for (int w = 0; w < 4; w++) {
        words[w] = __byte_perm(r[w / 2][w % 2 * 2], r[w / 2][w % 2 * 2 + 1], bytes);
      }
      uint8_t* target = tiles + places.target + tile * Places::value_tile_bytes +
                        odd * Places::value_row_bytes;
      if constexpr (Stored == Number::s8) {
        *reinterpret_cast<uint4*>(target) = uint4{words[0], words[1], words[2], words[3]};
      } else {
        *reinterpret_cast<uint2*>(target) =
            uint2{interleave_nibbles(words[0], words[2]), interleave_nibbles(words[1], words[3])};
      }
    }
  }
}

// Largest magnitudes of the thread's part. A barrier follows.
template <Side side, Number Stored, int D, int BlockK>
DEVICE_FN void write_magnitudes(const TileMap<D, BlockK>& map, const Rows<D, BlockK>& rows,
                                SharedMemory<D, BlockK>& shared) {
  if constexpr (scales_channels(side, Stored)) {
    write_channel_magnitudes(map, rows, shared);
  } else {
    write_block_magnitude(rows, shared);
  }
}

// Stores the codes and scales of key block `block` of the workspace, from magnitudes that all
// threads have written. Afterwards shared memory is in use until the next barrier.
template <Side side, Number Stored, int D, int BlockK>
DEVICE_FN void store_codes(const ReorderParams& p,
                           const CodePlaces<side, Stored, D, BlockK>& places,
                           const TileMap<D, BlockK>& map, const Rows<D, BlockK>& rows,
                           int64_t block, SharedMemory<D, BlockK>& shared) {
  constexpr bool is_key = side == Side::key;
  uint8_t* tile = tile_of<side, Stored, D, BlockK>(p, block);
  uint8_t* codes = &shared.codes[0][0] + places.codes;
  if constexpr (scales_channels(side, Stored)) {
    store_channel_scales(shared, p.prepared.value_scale + block * D);
    __syncthreads();  // sync: the channels' scales are written
    const Channels8 inverse = read_channels(shared.inverse + map.first_channel);
    write_value_codes<Stored, D, BlockK>(rows, inverse.x, codes);
  } else {
    const Scale scale = scale_of(read_block_magnitude(shared), levels_of(Stored));
    if (threadIdx.x == 0) {
      (is_key ? p.prepared.key_scale : p.prepared.value_scale)[block] = scale.scale;
    }
    if constexpr (is_key) {
      store_key_codes<Stored, D, BlockK>(rows, scale.inverse, tile + places.target);
    } else {
      float inverse[8];
#pragma unroll
      for (float& x : inverse) x = scale.inverse;
      write_value_codes<Stored, D, BlockK>(rows, inverse, codes);
    }
  }
  __syncthreads();  // sync: codes are written, and magnitudes and sums are free for their next use
  if constexpr (!is_key) store_value_tiles(places, tile);
}

}  // namespace paro::kernels::reorder_quantize
