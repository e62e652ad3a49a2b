// Loads and stores of data that is used once: L2 evicts their lines before others, such as those of
// the keys and values, which other thread blocks read again.
// PTX ISA, "createpolicy", "ld.global.nc", "st".
#pragma once

#include "ptx/platform.cuh"

namespace paro::ptx {

// createpolicy.fractional.L2::evict_first: for all lines of an access.
PTX_FN uint64_t evict_first_policy() {
#if PARO_EMULATED
  return 0;
#else
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
#endif
}

// ld.global.nc with a policy: 16 bytes, aligned to them, that the kernel does not write.
PTX_FN uint4 load_with_policy(const void* source, uint64_t policy) {
#if PARO_EMULATED
  (void)policy;
  return __ldg(static_cast<const uint4*>(source));
#else
  uint4 x;
  asm("ld.global.nc.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
      : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
      : "l"(source), "l"(policy));
  return x;
#endif
}

// st.global with a policy: 16 bytes, aligned to them.
PTX_FN void store_with_policy(void* target, uint4 x, uint64_t policy) {
#if PARO_EMULATED
  (void)policy;
  *static_cast<uint4*>(target) = x;
#else
  asm volatile("st.global.L2::cache_hint.v4.u32 [%0], {%1, %2, %3, %4}, %5;" ::"l"(target),
               "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w), "l"(policy)
               : "memory");
#endif
}

}  // namespace paro::ptx
