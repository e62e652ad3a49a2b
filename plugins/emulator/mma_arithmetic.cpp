#include "emulator/mma_arithmetic.h"

#if defined(__x86_64__)
#define PARO_AVX2 [[gnu::target("avx2")]]
#endif

namespace paro::emulator {
namespace {

// Written so that compilers use multiply-adds of 16-bit pairs. A sum of 64 products of 8-bit values
// cannot overflow.
template <int K>
[[gnu::always_inline]] inline void integer_product(const int16_t* a, const int16_t* b, int32_t* c,
                                                   int rows, int columns) {
  for (int row = 0; row < rows; row++) {
    for (int column = 0; column < columns; column++) {
      int32_t sum = 0;
      for (int k = 0; k < K; k++) {
        sum += static_cast<int32_t>(a[row * K + k]) * static_cast<int32_t>(b[column * K + k]);
      }
      int32_t& target = c[row * columns + column];
      target = static_cast<int32_t>(static_cast<uint32_t>(target) + static_cast<uint32_t>(sum));
    }
  }
}

[[gnu::always_inline]] inline void integer_product_any(const int16_t* a, const int16_t* b,
                                                       int32_t* c, int rows, int columns, int k) {
  if (k == 64) return integer_product<64>(a, b, c, rows, columns);
  integer_product<32>(a, b, c, rows, columns);
}

#if defined(PARO_AVX2)
PARO_AVX2 void integer_product_avx2(const int16_t* a, const int16_t* b, int32_t* c, int rows,
                                    int columns, int k) {
  integer_product_any(a, b, c, rows, columns, k);
}
#endif

}  // namespace

void multiply_accumulate(const int16_t* a, const int16_t* b, int32_t* c, int rows, int columns,
                         int k) {
#if defined(PARO_AVX2)
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  if (has_avx2) return integer_product_avx2(a, b, c, rows, columns, k);
#endif
  integer_product_any(a, b, c, rows, columns, k);
}

void multiply_accumulate(const float* a, const float* b, float* c, int rows, int columns, int k) {
  for (int row = 0; row < rows; row++) {
    for (int column = 0; column < columns; column++) {
      float sum = 0;
      for (int i = 0; i < k; i++) sum += a[row * k + i] * b[column * k + i];
      c[row * columns + column] += sum;
    }
  }
}

}  // namespace paro::emulator
