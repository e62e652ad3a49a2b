// C[m][n] = sum over k of A[m][k] * B[k][n], where n runs over one strip of query rows that lie
// next to each other in vectors. Both products of attention have this form: S^T = K Q^T and O^T =
// V^T P^T.
#pragma once

#include "operands.h"

namespace paro::cpu::PARO_ISA {

// The number of accumulators must hide the latency of a multiply-add, and must fit in the register
// file together with a line of B and a broadcast of A: 8 x 2 of 32 registers, 6 x 2 of 16.
constexpr int kStripVectors = 2;
constexpr int kStripRows = kStripVectors * kVector;
constexpr int kRowsAtOnce = kVector == 16 ? 8 : 6;
constexpr int kTailRows = 4;

// A: words [rows][depth]; B: words [depth][kStripRows].
struct Product {
  const Word* a;
  const Word* b;
  int a_stride;
  int depth;
};

// start(row, v) returns the start value of the sum for a row of C and vector v of the strip.
// finish(row, v, sum) receives the sum. Always inlined, as all that is called for each score: what
// finish changes would otherwise lie in memory.
template <class Kind, int kRows, class Start, class Finish>
__attribute__((always_inline)) inline void product_tile(const Product& p, int row, Start start, Finish& finish) {
  typename Kind::Sum sum[kRows][kStripVectors];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < kStripVectors; ++v) sum[m][v] = start(row + m, v);
  }
  const Word* a = p.a + row * p.a_stride;
  const Word* b = p.b;
#pragma GCC unroll 1
  for (int k = 0; k < p.depth; ++k, b += kStripRows) {
    typename Kind::Line line[kStripVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kStripVectors; ++v) line[v] = load<typename Kind::Line>(b + v * kVector);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const auto word = Kind::broadcast(a[m * p.a_stride + k]);
#pragma GCC unroll 2
      for (int v = 0; v < kStripVectors; ++v) {
        sum[m][v] = Kind::multiply_add(sum[m][v], line[v], word);
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < kStripVectors; ++v) finish(row + m, v, sum[m][v]);
  }
}

// Prefetches the memory of the next run piece by piece while this one is computed. A head's copies
// do not fit in the second-level cache, and the listed blocks lie in an order that hardware
// prefetchers cannot predict.
class Ahead {
 public:
  // Takes `words` words starting at `first`, in at most `pieces` pieces, or none if `first` is
  // null.
  Ahead(const Word* first, int64_t words, int64_t pieces)
      : next_(first),
        end_(first == nullptr ? nullptr : first + words),
        lines_(static_cast<int>((words / kLineWords + pieces - 1) / pieces)) {}

  // Prefetches into the second-level cache. The first-level cache is full of what is being
  // computed.
  __attribute__((always_inline)) void ask() {
    for (int i = 0; i < lines_ && next_ < end_; ++i, next_ += kLineWords) {
      __builtin_prefetch(next_, 0, 2);
    }
  }

 private:
  static constexpr int kLineWords = 16;
  const Word* next_;
  const Word* end_;
  int lines_;
};

// How many pieces product() prefetches.
constexpr int pieces_of_product(int rows) {
  return (rows + 2 * kRowsAtOnce - 1) / (2 * kRowsAtOnce);
}

// rows: a multiple of kTailRows.
template <class Kind, class Start, class Finish>
__attribute__((always_inline)) inline void product(const Product& p, int rows, Ahead& ahead, Start start, Finish finish) {
  int row = 0;
  for (; row + 2 * kRowsAtOnce <= rows; row += 2 * kRowsAtOnce) {
    ahead.ask();
    product_tile<Kind, kRowsAtOnce>(p, row, start, finish);
    product_tile<Kind, kRowsAtOnce>(p, row + kRowsAtOnce, start, finish);
  }
  if (row < rows) ahead.ask();
  for (; row < rows; row += kTailRows) product_tile<Kind, kTailRows>(p, row, start, finish);
}

}  // namespace paro::cpu::PARO_ISA
