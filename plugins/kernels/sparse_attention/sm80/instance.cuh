// The kernels of one pair of number types as a table. The generated translation units include this
// file and instantiate mma_sync_kernels (instances.cmake).
#pragma once

#include <array>

#include "kernels/sparse_attention/launch.h"
#include "kernels/sparse_attention/sm80/kernel.cuh"

namespace paro::kernels::sparse_attention {
namespace sm80 {

template <class V>
constexpr Kernel kernel_of() {
  return {
      .selection = {.instructions = Instructions::mma_sync,
                    .head_dim = V::head_dim,
                    .block_q = V::block_q,
                    .span_keys = V::step_keys,
                    .qk = V::qk,
                    .pv = V::pv,
                    .four_bit = V::four_bit},
      .threads = V::compute_threads,
      .shared_bytes = [](int words) { return sizeof(SharedMemory<V>) + sizeof(uint32_t) * words; },
      .allow = [](size_t bytes) { return allow_shared_bytes(sparse_attention<V>, bytes); },
      .launch = [](const AttentionParams& params, const LaunchShape& shape) {
        return launch(sparse_attention<V>, shape, params);
      }};
}

// Every head_dim and block_q.
template <int StepKeys, Number Qk, Number Pv, FourBit Four>
constexpr void add_sizes(Kernel*& end) {
  *end++ = kernel_of<Variant<64, 64, StepKeys, Qk, Pv, Four>>();
  *end++ = kernel_of<Variant<64, 128, StepKeys, Qk, Pv, Four>>();
  *end++ = kernel_of<Variant<128, 64, StepKeys, Qk, Pv, Four>>();
  *end++ = kernel_of<Variant<128, 128, StepKeys, Qk, Pv, Four>>();
}

template <Number Qk, Number Pv>
constexpr auto kernel_table() {
  constexpr bool has_four_bit = Qk == Number::s4 || Pv == Number::s4;
  std::array<Kernel, 4 * (is_integer(Pv) ? 2 : 1) * (has_four_bit ? 2 : 1)> table{};
  Kernel* end = table.data();
  add_sizes<64, Qk, Pv, FourBit::native>(end);
  if constexpr (is_integer(Pv)) add_sizes<128, Qk, Pv, FourBit::native>(end);
  if constexpr (has_four_bit) {
    add_sizes<64, Qk, Pv, FourBit::unpacked>(end);
    if constexpr (is_integer(Pv)) add_sizes<128, Qk, Pv, FourBit::unpacked>(end);
  }
  return table;
}

}  // namespace sm80

template <Number Qk, Number Pv>
std::span<const Kernel> mma_sync_kernels() {
  static constexpr auto table = sm80::kernel_table<Qk, Pv>();
  return table;
}

}  // namespace paro::kernels::sparse_attention
