// The wgmma kernels as a table. One generated translation unit includes this file
// (instances.cmake).
#pragma once

#include "kernels/sparse_attention/launch.h"
#include "kernels/sparse_attention/sm90/kernel.cuh"

namespace paro::kernels::sparse_attention {
namespace sm90 {

template <class V>
constexpr Kernel kernel_of() {
  return {
      .selection = {.instructions = Instructions::wgmma,
                    .head_dim = V::head_dim,
                    .block_q = V::block_q,
                    .span_keys = V::block_k,
                    .qk = V::qk,
                    .pv = V::pv,
                    .four_bit = FourBit::native},
      .threads = Layout<V>::threads,
      .shared_bytes = [](int words) { return sizeof(SharedMemory<V>) + sizeof(uint32_t) * words; },
      .allow = [](size_t bytes) { return allow_shared_bytes(sparse_attention_wgmma<V>, bytes); },
      .launch = [](const AttentionParams& params, const LaunchShape& shape) {
        LaunchShape sharing = shape;
        sharing.blocks_an_sm = Layout<V>::blocks_an_sm;
        return launch(sparse_attention_wgmma<V>, sharing, params);
      }};
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
