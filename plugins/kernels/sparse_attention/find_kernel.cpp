#include "kernels/sparse_attention/launch.h"

namespace paro::kernels::sparse_attention {
namespace {

template <Number Qk>
Kernel with_integer_qk(const Selection& s) {
  switch (s.pv) {
    case Number::f16: return kernel_of<Qk, Number::f16>(s);
    case Number::bf16: return kernel_of<Qk, Number::bf16>(s);
    case Number::s8: return kernel_of<Qk, Number::s8>(s);
    default: return kernel_of<Qk, Number::s4>(s);
  }
}

template <Number Qk>
Kernel with_16bit_qk(const Selection& s) {
  switch (s.pv) {
    case Number::s8: return kernel_of<Qk, Number::s8>(s);
    case Number::s4: return kernel_of<Qk, Number::s4>(s);
    default: return kernel_of<Qk, Qk>(s);
  }
}

}  // namespace

Kernel find_kernel(const Selection& s) {
  if (s.instructions == Instructions::wgmma) return wgmma_kernel(s);
  switch (s.qk) {
    case Number::f16: return with_16bit_qk<Number::f16>(s);
    case Number::bf16: return with_16bit_qk<Number::bf16>(s);
    case Number::s8: return with_integer_qk<Number::s8>(s);
    default: return with_integer_qk<Number::s4>(s);
  }
}

}  // namespace paro::kernels::sparse_attention
