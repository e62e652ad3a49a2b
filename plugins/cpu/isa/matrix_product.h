// C[m][n] (+)= sum over k of A[m][k] * B[k][n], with n a row of vectors. Both products of attention
// have this form when query rows lie side by side in vectors: S^T = K Q^T and O^T += V^T P^T.
#pragma once

#include "vector.h"

namespace paro::cpu::PARO_ISA {

// Accumulators that fit the register file beside one row of B: 6 x 4 of 32 (AVX-512), 6 x 2 of 16.
constexpr int kRowsAtOnce = 6;
constexpr int kVectorsAtOnce = kVector == 16 ? 4 : 2;
constexpr int kColumnsAtOnce = kVectorsAtOnce * kVector;

struct Product {
  const float* a;
  int a_stride;
  const float* b;
  int b_stride;
  float* c;
  int c_stride;
  int depth;  // values of k
};

template <int Rows, bool Accumulate>
inline void product_tile(const Product& p, int row, int column) {
  Vector sum[Rows][kVectorsAtOnce];
#pragma GCC unroll 8
  for (int m = 0; m < Rows; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectorsAtOnce; ++v) {
      sum[m][v] = Accumulate ? load(p.c + (row + m) * p.c_stride + column + v * kVector) : Vector{};
    }
  }
  const float* a = p.a + row * p.a_stride;
  const float* b = p.b + column;
  for (int k = 0; k < p.depth; ++k, b += p.b_stride) {
    Vector line[kVectorsAtOnce];
#pragma GCC unroll 8
    for (int v = 0; v < kVectorsAtOnce; ++v) line[v] = load(b + v * kVector);
#pragma GCC unroll 8
    for (int m = 0; m < Rows; ++m) {
      const Vector factor = splat(a[m * p.a_stride + k]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectorsAtOnce; ++v) sum[m][v] = factor * line[v] + sum[m][v];
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < Rows; ++m) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectorsAtOnce; ++v) {
      store(p.c + (row + m) * p.c_stride + column + v * kVector, sum[m][v]);
    }
  }
}

// rows: any; columns: a multiple of kColumnsAtOnce.
template <bool Accumulate>
inline void product(const Product& p, int rows, int columns) {
  for (int column = 0; column < columns; column += kColumnsAtOnce) {
    int row = 0;
    for (; row + kRowsAtOnce <= rows; row += kRowsAtOnce) {
      product_tile<kRowsAtOnce, Accumulate>(p, row, column);
    }
    switch (rows - row) {
      case 5: product_tile<5, Accumulate>(p, row, column); break;
      case 4: product_tile<4, Accumulate>(p, row, column); break;
      case 3: product_tile<3, Accumulate>(p, row, column); break;
      case 2: product_tile<2, Accumulate>(p, row, column); break;
      case 1: product_tile<1, Accumulate>(p, row, column); break;
      default: break;
    }
  }
}

}  // namespace paro::cpu::PARO_ISA
