// The kernels of one pair of number types as a table. The generated translation units include this
// file and instantiate mma_sync_kernels (instances.cmake). Where none of the build's targets has
// the instructions of a unit, PARO_ROWS_ALONE makes the rows without the kernels: calls are then
// still described for GPUs that have them. PARO_BUDGETED_ALONE leaves out the kernels that
// sass/budget.json does not have.
#pragma once

#include <array>

#include "kernels/sparse_attention/launch.h"
#include "kernels/sparse_attention/sm80/correct_means.cuh"
#include "kernels/sparse_attention/sm80/kernel.cuh"
#include "kernels/sparse_attention/sm80/smoothed.cuh"

namespace paro::kernels::sparse_attention {
namespace sm80 {

template <class V>
inline DeviceSet allowed_devices;
template <class V>
inline DeviceSet fine_devices;
template <class V>
inline DeviceSet smoothed_devices;
template <class C>
inline DeviceSet smoothed_correction_devices;

template <class V>
using CorrectionOf =
    CorrectionVariant<V::head_dim, V::step_keys, V::qk, V::pv, V::four_bit>;

// Adds what a kernel has for smoothed calls.
template <class Base>
constexpr Kernel with_smoothing(Kernel kernel) {
  if constexpr (Base::qk == Number::s4 && is_integer(Base::pv)) {
    using V = FourBits<Base>;
    static_assert(sizeof(SmoothedMemory<V>) + 2 * sizeof(uint32_t) * 32 <=
                      least_shared_bytes_a_block,
                  "with short sequences at least, the variant runs on every GPU");
    kernel.smoothed_threads = V::compute_threads;
    kernel.smoothed_blocks_an_sm = smoothed_blocks_an_sm<V>;
    kernel.smoothed_bytes = sizeof(SmoothedMemory<V>);
    kernel.smoothed_allowed = &smoothed_devices<V>;
    using C = CorrectionOf<EightBits<V>>;
    static_assert(sizeof(CorrectionMemory<C>) <= least_shared_bytes_a_block,
                  "the correction runs on every GPU");
    kernel.smoothed_correction_bytes = sizeof(CorrectionMemory<C>);
    kernel.smoothed_correction_allowed = &smoothed_correction_devices<C>;
#if !defined(PARO_ROWS_ALONE)
    kernel.smoothed_function = sparse_attention_smoothed<V>;
#endif
#if !defined(PARO_ROWS_ALONE) && !defined(PARO_BUDGETED_ALONE)
    kernel.smoothed_correction = correct_means<C, true>;
#endif
  }
  return kernel;
}

template <class V>
constexpr Kernel kernel_of() {
  using C = CorrectionOf<V>;
  static_assert(C::tile_rows == correction_tile_rows && C::compute_threads == correction_threads,
                "what the launch takes");
  static_assert(sizeof(CorrectionMemory<C>) <= least_shared_bytes_a_block,
                "the correction runs on every GPU");
  static_assert(sizeof(SharedMemory<V>) + sizeof(uint32_t) * 32 <= least_shared_bytes_a_block,
                "with short sequences at least, the variant runs on every GPU");
  return with_smoothing<V>({
      .selection = {.instructions = Instructions::mma_sync,
                    .head_dim = V::head_dim,
                    .block_q = V::block_q,
                    .span_keys = V::step_keys,
                    .qk = V::qk,
                    .pv = V::pv,
                    .four_bit = V::four_bit},
      .threads = V::compute_threads,
      .blocks_an_sm = blocks_an_sm<V>,
      .shared_bytes = sizeof(SharedMemory<V>),
      .fine_bytes = fine_slots<V> * sizeof(FineExtras<V::query_blocks>),
      .query_blocks = V::query_blocks,
#if !defined(PARO_ROWS_ALONE)
      .function = sparse_attention<V>,
#endif
      .allowed = &allowed_devices<V>,
#if !defined(PARO_ROWS_ALONE)
      .fine_function = sparse_attention_fine<V>,
#endif
      .fine_allowed = &fine_devices<V>,
#if !defined(PARO_ROWS_ALONE) && !defined(PARO_BUDGETED_ALONE)
      .correction = correct_means<C, false>,
#endif
      .correction_bytes = sizeof(CorrectionMemory<C>),
      .correction_allowed = &allowed_devices<C>});
}

// Every head_dim and block_q.
template <int StepKeys, Number Qk, Number Pv, FourBit Four>
constexpr void add_sizes(Kernel*& end) {
  *end++ = kernel_of<Variant<64, 64, StepKeys, Qk, Pv, Four>>();
  *end++ = kernel_of<Variant<64, 128, StepKeys, Qk, Pv, Four>>();
  *end++ = kernel_of<Variant<128, 64, StepKeys, Qk, Pv, Four>>();
  *end++ = kernel_of<Variant<128, 128, StepKeys, Qk, Pv, Four>>();
}

template <Number Qk, Number Pv, FourBit Four>
constexpr auto kernel_table() {
  std::array<Kernel, is_integer(Pv) ? 8 : 4> table{};
  Kernel* end = table.data();
  add_sizes<64, Qk, Pv, Four>(end);
  if constexpr (is_integer(Pv)) add_sizes<128, Qk, Pv, Four>(end);
  return table;
}

}  // namespace sm80

template <Number Qk, Number Pv, FourBit Four>
std::span<const Kernel> mma_sync_kernels() {
  static constexpr auto table = sm80::kernel_table<Qk, Pv, Four>();
  return table;
}

}  // namespace paro::kernels::sparse_attention
