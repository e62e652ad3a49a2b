// The multiply-add rate of this instruction set: independent chains in registers, nothing else.
#pragma once

#include "vector.h"

namespace paro::cpu::PARO_ISA {

// As many chains as the matrix product keeps sums, so that latency is hidden as it is there.
constexpr int kChains = kVector == 16 ? 24 : 12;

// Runs `steps` multiply-adds in every chain; returns how many floating-point operations that was.
// `sink` keeps the compiler from dropping the work.
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
