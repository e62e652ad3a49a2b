// The two matrix products of a step: the query rows of a warp against one span of keys.
//
// Fragments follow ptx/mma.cuh. Of each 16 x 8 accumulator fragment, lane 4 g + i holds rows g and
// g + 8, columns 2 i and 2 i + 1.
#pragma once

#include <type_traits>

#include "kernels/sparse_attention/common/softmax.cuh"
#include "kernels/sparse_attention/sm80/load_order.cuh"
#include "kernels/swizzle.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mma.cuh"

namespace paro::kernels::sparse_attention::sm80 {

template <class V>
constexpr int key_fragments = V::step_keys / 8;

// Scale of integer products: an unpacked 4-bit code is 16 times its value.
template <class V>
constexpr float score_scale = V::unpacks_keys ? 1.0f / 16 : 1.0f;
template <class V>
constexpr float value_product_scale = V::unpacks_values ? 1.0f / 16 : 1.0f;

// Integer accumulators start at ptx::biased_zero, so that their bits can be read as a float.
template <Number N>
using Accumulator = typename std::conditional<is_integer(N), int32_t, float>::type;

// The start of integer accumulators, kept in registers through the whole walk.
struct BiasedZero {
  int32_t registers[4];
};

// Fragment (a, n) is rows 16 a .. of the warp, keys 8 n ...
template <class V>
using Scores = Accumulator<V::qk>[row_fragments<V>][key_fragments<V>][4];

template <class V>
PTX_FN void multiply_scores(bool first, const BiasedZero& zero, const float (&start)[4],
                            Accumulator<V::qk> (&c)[4], const uint32_t (&a)[4],
                            const uint32_t (&b)[2]) {
  if constexpr (V::qk == Number::f16) {
    first ? ptx::mma_f16_from(start, c, a, b) : ptx::mma_f16(c, a, b);
  } else if constexpr (V::qk == Number::bf16) {
    first ? ptx::mma_bf16_from(start, c, a, b) : ptx::mma_bf16(c, a, b);
  } else if constexpr (V::qk == Number::s4 && !V::unpacks_keys) {
    first ? ptx::mma_s4_s4_from(zero.registers, c, a, b) : ptx::mma_s4_s4(c, a, b);
  } else {
    first ? ptx::mma_s8_s8_from(zero.registers, c, a, b) : ptx::mma_s8_s8(c, a, b);
  }
}

// B operand of Q K^T for one key fragment, from the registers that one ldmatrix loaded.
template <class V>
PTX_FN void take_key_operand(const uint32_t (&loaded)[4], uint32_t i, uint32_t (&b)[2]) {
  if constexpr (V::unpacks_keys) {
    const ptx::BytePair bytes = ptx::unpack_s4_times_16(loaded[i]);
    b[0] = bytes.low, b[1] = bytes.high;
  } else {
    b[0] = loaded[2 * i], b[1] = loaded[2 * i + 1];
  }
}

// What is added to the products of a step where every key is attended. Products of integers lose
// their bias here. It does not cancel against the maximum instead: multiplied by a large factor, its
// rounding would exceed the distance between codes of P.
template <class V>
struct AllKeys {
  static constexpr float addend(int, int) { return is_integer(V::qk) ? -ptx::bias_value : 0.0f; }
};

// The same where keys may be absent. Their products become so low that times any factor from
// least_factor on they leave no weight. They are finite, since infinity would make NaN of a factor
// of 0; a factor that is raised to the least leaves products of 0, or such that all weigh the same.
constexpr float least_factor = 1e-30f;
constexpr float absent_product = -0x1p127f;

template <class V>
struct SomeKeys {
  // Byte n % 4 of [n / 4][i] is of key fragment n, column i of the lane's two: the highest byte of
  // its addend or, of floats, one with the sign of it.
  uint32_t marks[V::step_keys / 32][2];
  uint32_t bias_bits;  // of BiasedZero: a register, where a constant would displace the selectors

  // -2^127 or 0; of integers about -2^127.6 or minus the bias.
  __device__ __forceinline__ float addend(int n, int column) const {
    const uint32_t mark = marks[n / 4][column], byte = static_cast<uint32_t>(n % 4);
    return __uint_as_float(is_integer(V::qk)
                               ? ptx::permute_bytes(mark, bias_bits, byte << 12 | 0x654u)
                               : ptx::permute_bytes(mark, 0, (byte + 8) << 12 | 0x444u));
  }
};

template <class V>
PTX_FN SomeKeys<V> some_keys(const uint32_t (&absent)[V::step_keys / 32], const BiasedZero& zero) {
  SomeKeys<V> keys;
  keys.bias_bits = static_cast<uint32_t>(zero.registers[0]);
#pragma unroll
  for (int word = 0; word < V::step_keys / 32; word++) {
#pragma unroll
    for (uint32_t column = 0; column < 2; column++) {
      // The bit of a key becomes the sign of its byte.
      uint32_t mark = absent[word] << (7 - threadIdx.x % 4 * 2 - column);
      if constexpr (is_integer(V::qk)) mark = ptx::permute_bytes(mark, 0, 0xBA98) | 0xCBCBCBCBu;
      keys.marks[word][column] = mark;
    }
  }
  return keys;
}

// What this lane's loads of S = Q K^T start at.
template <class V>
PTX_FN uint32_t query_place() {
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  return swizzled_offset<V::query_row_bytes>(warp * V::rows_per_warp + lane % 16, lane / 16);
}

// The four matrices of a load: four key fragments, or the two halves of two.
template <class V>
PTX_FN uint32_t key_place() {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t key_row = V::unpacks_keys ? lane : lane % 8 + lane / 16 * 8;
  const uint32_t key_chunk = V::unpacks_keys ? 0 : lane / 8 % 2;
  return swizzled_offset<Layout<V>::key_row_bytes>(key_row, key_chunk);
}

// S = Q K^T. An instruction takes 32 bytes of a query row, whatever the type, and the same channels
// of a key row: 32 bytes, or 16 that unpack to 32. Products of floats start at the addends of
// `keys`. The addresses are those of the tiles plus the lane's places.
template <class V, class Keys>
PTX_FN void score_product_at(uint32_t query_address, uint32_t key_address, const BiasedZero& zero,
                             const Keys& keys, Scores<V>& scores) {
  using L = Layout<V>;
  constexpr uint32_t rows = row_fragments<V>, depth = V::query_row_bytes / 32;
  constexpr uint32_t key_depth_bytes = L::key_row_bytes / depth;
  constexpr uint32_t fragments_a_load = V::unpacks_keys ? 4 : 2;
#pragma unroll
  for (uint32_t k = 0; k < depth; k++) {
    hold_loads_back(LoadOrder<V>::by_depth && k > 0);
    uint32_t a[rows][4];
#pragma unroll
    for (uint32_t row = 0; row < rows; row++) {
      ptx::ldmatrix_x4(a[row], (query_address ^ (k << 5)) + row * 16 * V::query_row_bytes);
    }
#pragma unroll
    for (uint32_t n = 0; n < key_fragments<V>; n += fragments_a_load) {
      uint32_t loaded[4];
      ptx::ldmatrix_x4(loaded, (key_address ^ k * key_depth_bytes) + n * 8 * L::key_row_bytes);
#pragma unroll
      for (uint32_t i = 0; i < fragments_a_load; i++) {
        uint32_t b[2];
        take_key_operand<V>(loaded, i, b);
        const int fragment = static_cast<int>(n + i);
        const float low = keys.addend(fragment, 0), high = keys.addend(fragment, 1);
        const float start[4] = {low, high, low, high};
#pragma unroll
        for (uint32_t row = 0; row < rows; row++) {
          multiply_scores<V>(k == 0, zero, start, scores[row][fragment], a[row], b);
        }
      }
    }
  }
}

template <class V, class Keys>
PTX_FN void score_product(uint32_t query_tile, uint32_t key_tile, const BiasedZero& zero,
                          const Keys& keys, Scores<V>& scores) {
  score_product_at<V>(query_tile + query_place<V>(), key_tile + key_place<V>(), zero, keys, scores);
}

// P of 16 rows as the A operand of P V, for `instructions` products.
template <class V>
struct Probabilities {
  static constexpr int keys_each = !is_integer(V::pv)                          ? 16
                                   : V::pv == Number::s4 && !V::unpacks_values ? 64
                                                                               : 32;
  static constexpr int instructions = V::step_keys / keys_each;
  uint32_t a[instructions][4];
};

// B operands of P V for two fragments of 8 channels, d and d + 1, and the keys of one value tile.
template <class V>
struct ValueFragments {
  static constexpr int instructions = value_tile_keys / Probabilities<V>::keys_each;
  uint32_t b[2][instructions][2];
};

// Where in a value tile this lane's loads start.
template <class V>
PTX_FN uint32_t value_place() {
  const uint32_t lane = threadIdx.x % 32;
  constexpr int row_bytes = Layout<V>::value_row_bytes;
  if constexpr (!is_integer(V::pv)) return swizzled_offset<row_bytes>(lane % 16, lane / 16);
  if constexpr (V::pv == Number::s8) return swizzled_offset<row_bytes>(lane % 8, lane / 8);
  return swizzled_offset<row_bytes>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
}

// `start`: the tile plus the lane's place in it.
template <class V>
PTX_FN void load_value_tile(uint32_t start, uint32_t d, ValueFragments<V>& fragments) {
  using L = Layout<V>;
  uint32_t r[4];
  if constexpr (!is_integer(V::pv)) {
    // Rows are keys: ldmatrix transposes them.
    const uint32_t address = start ^ ((d % 8) << 4);
#pragma unroll
    for (uint32_t k = 0; k < 4; k++) {
      ptx::ldmatrix_x4_trans(r, address + d / 8 * 128 + k * 16 * L::value_row_bytes);
      fragments.b[0][k][0] = r[0], fragments.b[0][k][1] = r[1];
      fragments.b[1][k][0] = r[2], fragments.b[1][k][1] = r[3];
    }
  } else if constexpr (V::pv == Number::s8) {
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
      ptx::ldmatrix_x4(r, start + (d + i) * 8 * L::value_row_bytes);
      fragments.b[i][0][0] = r[0], fragments.b[i][0][1] = r[1];
      fragments.b[i][1][0] = r[2], fragments.b[i][1][1] = r[3];
    }
  } else {
    ptx::ldmatrix_x4(r, start + d * 8 * L::value_row_bytes);
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
      if constexpr (V::unpacks_values) {
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
          const ptx::BytePair bytes = ptx::unpack_s4_times_16(r[2 * i + half]);
          fragments.b[i][half][0] = bytes.low, fragments.b[i][half][1] = bytes.high;
        }
      } else {
        fragments.b[i][0][0] = r[2 * i], fragments.b[i][0][1] = r[2 * i + 1];
      }
    }
  }
}

// One 16 x 8 fragment, the keys of value tile `value_tile`: c += P V for 16 bits, c = biased zero +
// P V for integers.
template <class V>
PTX_FN void multiply_values(int value_tile, const BiasedZero& zero, Accumulator<V::pv> (&c)[4],
                            const Probabilities<V>& p,
                            const uint32_t (&b)[ValueFragments<V>::instructions][2]) {
#pragma unroll
  for (int k = 0; k < ValueFragments<V>::instructions; k++) {
    const uint32_t (&a)[4] = p.a[value_tile * ValueFragments<V>::instructions + k];
    const bool first = value_tile == 0 && k == 0;
    if constexpr (V::pv == Number::f16) {
      ptx::mma_f16(c, a, b[k]);
    } else if constexpr (V::pv == Number::bf16) {
      ptx::mma_bf16(c, a, b[k]);
    } else if constexpr (V::pv == Number::s4 && !V::unpacks_values) {
      first ? ptx::mma_u4_s4_from(zero.registers, c, a, b[k]) : ptx::mma_u4_s4(c, a, b[k]);
    } else {
      first ? ptx::mma_u8_s8_from(zero.registers, c, a, b[k]) : ptx::mma_u8_s8(c, a, b[k]);
    }
  }
}

}  // namespace paro::kernels::sparse_attention::sm80
