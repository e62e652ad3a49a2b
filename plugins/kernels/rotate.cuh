// The rotation of smoothed heads (paro_trt/op/smoothing.py): signs, then a Hadamard transform over
// sqrt(D). FP32 in one order of operations, so that codes equal the reference's bit for bit.
#pragma once

#include "kernels/quantize.cuh"

namespace paro::kernels {

// What a lane needs to rotate its eight channels of rows of one head.
struct Rotation {
  bool rotates;       // the same for the whole head
  uint32_t negative;  // bit i: channel i changes its sign

  DEVICE_FN Rotation of(const Plan& plan, int kv_head, int first_channel, int head_dim) {
    const int32_t* signs = plan.rotation + static_cast<int64_t>(kv_head) * head_dim;
    Rotation rotation{__ldg(signs) != 0, 0u};
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if (__ldg(signs + first_channel + i) < 0) rotation.negative |= 1u << i;
    }
    return rotation;
  }
};

// Rotates a row, of which D / 8 consecutive lanes hold eight channels each. By whole warps, since
// lanes exchange channels. __fadd_rn and __fmul_rn: the compiler may fuse a plain sum with the
// product that made one of its terms.
template <int D>
DEVICE_FN void rotate(const Rotation& rotation, Channels8& c) {
  if (!rotation.rotates) return;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    c.x[i] = __uint_as_float(__float_as_uint(c.x[i]) ^ (rotation.negative >> i & 1u) << 31);
  }
#pragma unroll
  for (int stride = 1; stride < 8; stride *= 2) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if ((i & stride) != 0) continue;
      const float first = c.x[i], second = c.x[i + stride];
      c.x[i] = __fadd_rn(first, second);
      c.x[i + stride] = __fadd_rn(first, -second);
    }
  }
#pragma unroll
  for (uint32_t distance = 1; distance < D / 8; distance *= 2) {
    const bool is_second = (threadIdx.x & distance) != 0;
#pragma unroll
    for (float& x : c.x) {
      const float other = __shfl_xor_sync(~0u, x, static_cast<int>(distance));
      x = __fadd_rn(other, is_second ? -x : x);
    }
  }
  constexpr float inverse_root = D == 64 ? 0.125f : 0.08838834764831845f;  // 1 / sqrt(D)
#pragma unroll
  for (float& x : c.x) x = __fmul_rn(x, inverse_root);
}

}  // namespace paro::kernels
