// The ring of stages between the producer and the consumers. A stage is full when its bytes have
// landed and its extras are written, empty when every consumer warp has left it.
#pragma once

#include "kernels/sparse_attention/sm90/tile.h"
#include "ptx/mbarrier.cuh"
#include "ptx/tma.cuh"
#include "ptx/warp.cuh"

#if PARO_HAS_WGMMA

namespace paro::kernels::sparse_attention::wgmma {

// Where a walk around the ring is. The parity alternates with every round.
template <class V>
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    if (++stage == Layout<V>::stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

template <class V>
struct Ring {
  using L = Layout<V>;

  uint8_t* shared;
  uint32_t base;  // the same address in the shared window

  __device__ __forceinline__ uint32_t key_tile(int stage) const {
    return base + static_cast<uint32_t>(L::stage_offset + stage * L::stage_bytes);
  }
  __device__ __forceinline__ uint32_t value_tile(int stage) const {
    return key_tile(stage) + static_cast<uint32_t>(L::stage_bytes / 2);
  }
  __device__ __forceinline__ StepExtras<V>& extras(int stage) const {
    return reinterpret_cast<StepExtras<V>*>(shared + L::extras_offset)[stage];
  }
  __device__ __forceinline__ uint32_t full(int stage) const {
    return base + static_cast<uint32_t>(L::full_offset + stage * 8);
  }
  __device__ __forceinline__ uint32_t empty(int stage) const {
    return base + static_cast<uint32_t>(L::empty_offset + stage * 8);
  }

  // By one thread; a block barrier must follow.
  __device__ __forceinline__ void initialise() const {
    for (int stage = 0; stage < L::stages; stage++) {
      ptx::mbarrier_init(full(stage), 1);
      ptx::mbarrier_init(empty(stage), L::consumer_threads / 32);
    }
    ptx::fence_mbarrier_init();
  }

  __device__ __forceinline__ void wait_full(const RingPlace<V>& at) const {
    ptx::mbarrier_wait(full(at.stage), at.parity);
  }
  // In the first round stages are empty as they are.
  __device__ __forceinline__ void wait_empty(const RingPlace<V>& at) const {
    ptx::mbarrier_wait(empty(at.stage), at.parity ^ 1);
  }
  // By a whole warp that has read all it wants of the stage.
  __device__ __forceinline__ void release(int stage) const {
    __syncwarp();  // sync: every lane has read the extras
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(empty(stage));
  }
};

}  // namespace paro::kernels::sparse_attention::wgmma

#endif  // PARO_HAS_WGMMA
