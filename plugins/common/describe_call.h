// Checks the op's tensors against each other, as a runtime (TensorRT, ONNX Runtime) describes them,
// and turns them into a call of the C ABI. paro_trt/op/validate.py does the same for torch tensors.
#pragma once

#include <array>
#include <cstdint>

#include "paro/paro_c.h"

namespace paro {

// The op's inputs in order, as in paro_trt/op/spec.py.
enum Input : int32_t {
  kQuery,
  kKey,
  kValue,
  kTokenOrder,
  kHeadOrder,
  kBlockMask,
  kTileOrder,
  kChannelAffine,
  kMaskBin,
  kKeyLength,
  // From here on in version 2 of the op.
  kFineMask,
  kCorrectedHeads,
  kDynamicBlocks,
  kRotation,
};
inline constexpr int32_t kVersion1 = 1;
inline constexpr int32_t kVersion2 = 2;
inline constexpr int32_t kMaxInputs = kRotation + 1;

// The inputs of a node of this version of the op.
constexpr int32_t input_count(int32_t version) {
  return version == kVersion1 ? kFineMask : kMaxInputs;
}

struct InputSpec {
  const char* name;
  int32_t rank;
};
inline constexpr std::array<InputSpec, kMaxInputs> kInputs = {{
    {.name = "query", .rank = 4},
    {.name = "key", .rank = 4},
    {.name = "value", .rank = 4},
    {.name = "token_order", .rank = 2},
    {.name = "head_order", .rank = 1},
    {.name = "block_mask", .rank = 4},
    {.name = "tile_order", .rank = 2},
    {.name = "channel_affine", .rank = 3},
    {.name = "mask_bin", .rank = 1},
    {.name = "key_length", .rank = 1},
    {.name = "fine_mask", .rank = 4},
    {.name = "corrected_heads", .rank = 1},
    {.name = "dynamic_blocks", .rank = 2},
    {.name = "rotation", .rank = 2},
}};

// The shape of a tensor. A rank outside 0..kMaxRank is stored unchanged, and describe_call refuses
// it.
struct TensorShape {
  static constexpr int32_t kMaxRank = 8;
  int32_t rank;
  std::array<int64_t, kMaxRank> sizes;
};
// Shapes and addresses of a call; those past the node's input_count are not read.
using InputShapes = std::array<TensorShape, kMaxInputs>;
using InputAddresses = std::array<const void*, kMaxInputs>;

// The op's attributes, as a node or an engine gives them.
struct Attributes {
  int32_t version = kVersion1;
  float scale = 0.0f;
  int32_t block_q = 0;
  int32_t block_k = 0;
  int32_t qk_bits = 0;
  int32_t pv_bits = 0;
  int32_t pool_dropped = 0;
  // Of version 2: which of its inputs are used.
  int32_t fine_summaries = 0;
  int32_t mean_correction = 0;
  int32_t routing = 0;
  int32_t smoothing = 0;
};

// Fills all fields of `call` except its pointers. Refuses block sizes that the op does not have,
// and ranks and shapes that do not fit together; paro_last_error returns the message. The functions
// of the C ABI check everything else. A batch of 0 is accepted, and the caller then has nothing to
// compute.
paro_status describe_call(const Attributes& attributes, paro_dtype dtype, const InputShapes& shapes,
                          paro_attention& call) noexcept;

// Fills the pointers of `call`, which describe_call filled before; NULL for inputs that its
// attributes do not use.
void point_to(const InputAddresses& inputs, void* output, paro_attention& call) noexcept;

}  // namespace paro
