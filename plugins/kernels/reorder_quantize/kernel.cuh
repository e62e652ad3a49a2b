// Stage 1. A thread block takes the keys or the values of a run of key blocks of one unit. It
// gathers them in the head's order, preconditions and quantizes them, and writes the tiles that
// stage 2 copies unchanged. The tokens of the next key block arrive meanwhile.
//
// Grid: x run of key blocks (or summary block), y unit, z 0 for keys and 1 for values.
#pragma once

#include "kernels/reorder_quantize/mean.cuh"
#include "kernels/reorder_quantize/store.cuh"

namespace paro::kernels::reorder_quantize {

// Tokens of a run. What a thread block does once, some 250 instructions of each warp, is then a
// tenth of all. With longer runs the last thread blocks of a launch would leave more of a GPU idle.
constexpr int run_tokens = 512;

// Thread blocks that must fit an SM. Without a number ptxas spills registers to fit one more.
constexpr int blocks_an_sm = 1;

// One key block whose rows have arrived. `Source` is the inputs' type, `Stored` that of the tiles.
template <Side side, Number Source, Number Stored, bool Pooled, int D, int BlockK>
DEVICE_FN void prepare_block(const ReorderParams& p, const Unit& unit, int block,
                             const TokenStream<D, BlockK>& stream,
                             const CodePlaces<side, Stored, D, BlockK>& places,
                             const RawRows<D, BlockK>& raw, SharedMemory<D, BlockK>& shared) {
  const int64_t stored = first_prepared_block(p.geometry, unit.index) + block;
  if constexpr (!is_integer(Stored)) store_16bit<side, D, BlockK>(p, stream.map, raw, stored);
  if constexpr (is_integer(Stored) || Pooled) {
    Rows<D, BlockK> rows;
    precondition<Source, is_integer(Stored)>(stream, raw, shared, rows);
    if constexpr (Pooled) write_sums(stream.map, rows, shared);
    if constexpr (is_integer(Stored)) write_magnitudes<side, Stored>(stream.map, rows, shared);
    __syncthreads();  // sync: sums and magnitudes are written
    if constexpr (Pooled) {
      store_mean<Source, Stored, D, BlockK>(p, side, unit, block, stream.block_tokens(),
                                            shared);
    }
    if constexpr (is_integer(Stored)) {
      store_codes(p, places, stream.map, rows, stored, shared);
    } else {
      __syncthreads();  // sync: sums are free for their next use
    }
  }
}

template <Side side, Number Source, Number Stored, bool Pooled, int D, int BlockK>
DEVICE_FN void prepare_run(const ReorderParams& p, SharedMemory<D, BlockK>& shared) {
  const Geometry& g = p.geometry;
  const Unit unit = unit_at(g, static_cast<int>(blockIdx.y));
  constexpr int blocks = run_tokens / BlockK;
  const int first = static_cast<int>(blockIdx.x) * blocks;
  const int end = min(first + blocks, g.key_blocks);
  auto stream = TokenStream<D, BlockK>::of(p, side, unit, first, shared);
  const auto places = CodePlaces<side, Stored, D, BlockK>::of(p.layout, shared);
  stream.read_tokens(0);
  if constexpr (is_integer(Stored)) write_affine(p, side, unit.kv_head, shared);
  stream.fetch(0);
  stream.read_tokens(1);
  if constexpr (is_integer(Stored)) __syncthreads();  // sync: the affine is written
#pragma unroll 1
  for (int block = first; block < end; block++) {
    RawRows<D, BlockK> raw;
    stream.take(shared, raw);
    if (block + 1 < end) stream.fetch(1);
    stream.read_tokens(2);
    prepare_block<side, Source, Stored, Pooled>(p, unit, block, stream, places, raw, shared);
    stream.advance();
  }
}

// The number type is the same for a whole launch: one branch leads to the code for it.
template <Side side, Number Source, bool Pooled, int D, int BlockK>
DEVICE_FN void prepare_run_as(const ReorderParams& p, Number stored,
                              SharedMemory<D, BlockK>& shared) {
  switch (stored) {
    case Number::s8: return prepare_run<side, Source, Number::s8, Pooled>(p, shared);
    case Number::s4: return prepare_run<side, Source, Number::s4, Pooled>(p, shared);
    default: return prepare_run<side, Source, Source, Pooled>(p, shared);
  }
}

// From tokens to key blocks, and to their means where dropped blocks are pooled. One launch does
// keys and values, so that no SM is idle between them. A kernel for each pair of their types would
// be three times the code, and have as many registers.
template <Number Source, int D, int BlockK, bool Pooled>
__global__ void __launch_bounds__(TileMap<D, BlockK>::threads, blocks_an_sm)
    reorder_tokens(const ReorderParams p) {
  DYN_SMEM(memory);
  auto& shared = *reinterpret_cast<SharedMemory<D, BlockK>*>(memory);
  if (blockIdx.x + blockIdx.y + blockIdx.z + threadIdx.x == 0) *p.tiles_taken = 0;
  if (blockIdx.z == 0) {
    prepare_run_as<Side::key, Source, Pooled>(p, p.key_number, shared);
  } else {
    prepare_run_as<Side::value, Source, Pooled>(p, p.value_number, shared);
  }
}

template <Side side, Number Stored, int D, int BlockK>
DEVICE_FN void quantize_summaries(const ReorderParams& p, const Unit& unit, int64_t stored,
                                  SharedMemory<D, BlockK>& shared) {
  const int summary_block = static_cast<int>(blockIdx.x);
  const auto map = TileMap<D, BlockK>::of_thread();
  Rows<D, BlockK> rows;
  load_means(p, side, unit, summary_block, map, rows);
  if constexpr (is_integer(Stored)) {
    write_magnitudes<side, Stored>(map, rows, shared);
    __syncthreads();  // sync: magnitudes are written
    const auto places = CodePlaces<side, Stored, D, BlockK>::of(p.layout, shared);
    store_codes(p, places, map, rows, stored, shared);
  } else {
    RawRows<D, BlockK> raw;
#pragma unroll
    for (int i = 0; i < TileMap<D, BlockK>::rows_per_thread; i++) {
      raw[i] = channels_to_16bit(rows[i], Stored == Number::bf16);
    }
    store_16bit<side, D, BlockK>(p, map, raw, stored);
  }
}

template <Side side, int D, int BlockK>
DEVICE_FN void quantize_summaries_as(const ReorderParams& p, Number stored,
                                     SharedMemory<D, BlockK>& shared) {
  const Geometry& g = p.geometry;
  const Unit unit = unit_at(g, static_cast<int>(blockIdx.y));
  const int64_t block = first_prepared_block(g, unit.index) + g.key_blocks + blockIdx.x;
  switch (stored) {
    case Number::s8: return quantize_summaries<side, Number::s8>(p, unit, block, shared);
    case Number::s4: return quantize_summaries<side, Number::s4>(p, unit, block, shared);
    case Number::bf16: return quantize_summaries<side, Number::bf16>(p, unit, block, shared);
    default: return quantize_summaries<side, Number::f16>(p, unit, block, shared);
  }
}

// From means to key blocks of summary tokens, which follow the unit's blocks of tokens.
template <int D, int BlockK>
__global__ void __launch_bounds__(TileMap<D, BlockK>::threads, blocks_an_sm)
    quantize_means(const ReorderParams p) {
  DYN_SMEM(memory);
  auto& shared = *reinterpret_cast<SharedMemory<D, BlockK>*>(memory);
  if (blockIdx.z == 0) {
    quantize_summaries_as<Side::key>(p, p.key_number, shared);
  } else {
    quantize_summaries_as<Side::value>(p, p.value_number, shared);
  }
}

}  // namespace paro::kernels::reorder_quantize
