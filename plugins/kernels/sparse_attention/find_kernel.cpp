#include "kernels/sparse_attention/launch.h"

namespace paro::kernels::sparse_attention {
namespace {

using KernelTable = std::span<const Kernel> (*)();

// One table for each pair of number types (QK, PV), then the wgmma kernels.
constexpr KernelTable tables[] = {
    mma_sync_kernels<Number::f16, Number::f16>, mma_sync_kernels<Number::f16, Number::s8>,
    mma_sync_kernels<Number::f16, Number::s4>,  mma_sync_kernels<Number::bf16, Number::bf16>,
    mma_sync_kernels<Number::bf16, Number::s8>, mma_sync_kernels<Number::bf16, Number::s4>,
    mma_sync_kernels<Number::s8, Number::f16>,  mma_sync_kernels<Number::s8, Number::bf16>,
    mma_sync_kernels<Number::s8, Number::s8>,   mma_sync_kernels<Number::s8, Number::s4>,
    mma_sync_kernels<Number::s4, Number::f16>,  mma_sync_kernels<Number::s4, Number::bf16>,
    mma_sync_kernels<Number::s4, Number::s8>,   mma_sync_kernels<Number::s4, Number::s4>,
    wgmma_kernels,
};

}  // namespace

const Kernel* find_kernel(const Selection& selection) {
  for (const KernelTable table : tables) {
    for (const Kernel& kernel : table()) {
      if (kernel.selection == selection) return &kernel;
    }
  }
  return nullptr;
}

}  // namespace paro::kernels::sparse_attention
