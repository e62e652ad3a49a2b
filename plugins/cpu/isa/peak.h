// Measures the multiply-add rate of this instruction set with independent chains in registers.
#pragma once

#include "vector.h"

namespace paro::cpu::PARO_ISA {

// The matrix product keeps the same number of sums, so both hide the latency equally well.
constexpr int kChains = kVector == 16 ? 24 : 12;

// Runs `steps` multiply-adds in each chain and returns the number of floating-point operations.
// Writing to `sink` keeps the compiler from removing the work.
inline double multiply_add_chains(int64_t steps, float* sink) {
  Vector chain[kChains];
  for (int c = 0; c < kChains; ++c) chain[c] = splat(static_cast<float>(c));
  const Vector factor = splat(0.999f), addend = splat(0.001f);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 32
    for (int c = 0; c < kChains; ++c) chain[c] = chain[c] * factor + addend;
  }
  Vector total{};
  for (int c = 0; c < kChains; ++c) total = total + chain[c];
  *sink = total[0];
  return 2.0 * kChains * kVector * static_cast<double>(steps);
}

}  // namespace paro::cpu::PARO_ISA
