// The wgmma kernels as a table. One generated translation unit includes this file
// (instances.cmake). PARO_ROWS_ALONE: see sm80/instance.cuh.
#pragma once

#include "kernels/sparse_attention/launch.h"
#include "kernels/sparse_attention/sm90/kernel.cuh"

namespace paro::kernels::sparse_attention {
namespace sm90 {

template <class V>
inline DeviceSet allowed_devices;
template <class V>
inline DeviceSet fine_devices;

template <class V>
constexpr Kernel kernel_of() {
  using F = WithFine<V>;
  constexpr size_t with_fine =
      sizeof(SharedMemory<F>) + Layout<F>::slots * sizeof(FineExtras);
  static_assert(with_fine >= sizeof(SharedMemory<V>), "fine_bytes are more of them");
  constexpr size_t bytes = with_fine + 1024;
  static_assert(Layout<V>::blocks_an_sm * bytes <= shared_bytes_an_sm(90),
                "as many thread blocks as are meant fit an SM");
  return {
      .selection = {.instructions = Instructions::wgmma,
                    .head_dim = V::head_dim,
                    .block_q = V::block_q,
                    .span_keys = V::block_k,
                    .qk = V::qk,
                    .pv = V::pv,
                    .four_bit = FourBit::native},
      .threads = Layout<V>::threads,
      .blocks_an_sm = Layout<V>::blocks_an_sm,
      .shared_bytes = sizeof(SharedMemory<V>),
      .fine_bytes = with_fine - sizeof(SharedMemory<V>),
      .query_blocks = V::query_blocks,
      .is_persistent = true,
#if !defined(PARO_ROWS_ALONE)
      .function = sparse_attention_wgmma<V>,
#endif
      .allowed = &allowed_devices<V>,
#if !defined(PARO_ROWS_ALONE)
      .fine_function = sparse_attention_wgmma_fine<V>,
#endif
      .fine_allowed = &fine_devices<V>};
}

}  // namespace sm90

std::span<const Kernel> wgmma_kernels() {
  using namespace sm90;
  static constexpr Kernel table[] = {
      kernel_of<Variant<64, 64, 64>>(),   kernel_of<Variant<64, 64, 128>>(),
      kernel_of<Variant<64, 128, 64>>(),  kernel_of<Variant<64, 128, 128>>(),
      kernel_of<Variant<128, 64, 64>>(),  kernel_of<Variant<128, 64, 128>>(),
      kernel_of<Variant<128, 128, 64>>(), kernel_of<Variant<128, 128, 128>>(),
  };
  return table;
}

}  // namespace paro::kernels::sparse_attention
