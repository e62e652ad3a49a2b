#include "kernels/sparse_attention/launch.h"

namespace paro::kernels::sparse_attention {
namespace {

using KernelTable = std::span<const Kernel> (*)();

template <Number Qk, Number Pv>
constexpr KernelTable native = mma_sync_kernels<Qk, Pv, FourBit::native>;
template <Number Qk, Number Pv>
constexpr KernelTable unpacked = mma_sync_kernels<Qk, Pv, FourBit::unpacked>;

// One table for each pair of number types (QK, PV), then the wgmma kernels.
constexpr KernelTable tables[] = {
    native<Number::f16, Number::f16>,   native<Number::f16, Number::s8>,
    native<Number::bf16, Number::bf16>, native<Number::bf16, Number::s8>,
    native<Number::s8, Number::f16>,    native<Number::s8, Number::bf16>,
    native<Number::s8, Number::s8>,
    native<Number::f16, Number::s4>,    unpacked<Number::f16, Number::s4>,
    native<Number::bf16, Number::s4>,   unpacked<Number::bf16, Number::s4>,
    native<Number::s8, Number::s4>,     unpacked<Number::s8, Number::s4>,
    native<Number::s4, Number::f16>,    unpacked<Number::s4, Number::f16>,
    native<Number::s4, Number::bf16>,   unpacked<Number::s4, Number::bf16>,
    native<Number::s4, Number::s8>,     unpacked<Number::s4, Number::s8>,
    native<Number::s4, Number::s4>,     unpacked<Number::s4, Number::s4>,
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
