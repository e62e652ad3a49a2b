#include "describe_call.h"

#include <algorithm>
#include <cstdio>
#include <initializer_list>

#include "check.h"
#include "error.h"
#include "status.h"

namespace paro {
namespace {

// A shape as text, such as "[2, 331, 4, 64]".
struct ShapeText {
  explicit ShapeText(const TensorShape& shape) {
    size_t used = 0;
    const int32_t rank = std::clamp(shape.rank, 0, TensorShape::kMaxRank);
    for (int32_t i = 0; i < rank && used < sizeof text - 2; ++i) {
      const int written =
          std::snprintf(text + used, sizeof text - used, "%s%lld", i ? ", " : "[",
                        static_cast<long long>(shape.sizes[static_cast<size_t>(i)]));
      used = std::min(used + static_cast<size_t>(written), sizeof text - 2);
    }
    std::snprintf(text + used, sizeof text - used, rank ? "]" : "[]");
  }

  char text[128];
};

paro_status check_ranks(const InputShapes& shapes, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const TensorShape& shape = shapes[i];
    const bool fits = shape.rank == kInputs[i].rank &&
                      std::all_of(shape.sizes.begin(), shape.sizes.begin() + shape.rank,
                                  [](int64_t size) { return size >= 0 && size <= INT32_MAX; });
    if (fits) continue;
    return fail(PARO_INVALID_ARGUMENT,
                "%s: expected %d dimensions of sizes in 0..2^31-1, got shape %s", kInputs[i].name,
                kInputs[i].rank, ShapeText(shape).text);
  }
  return PARO_OK;
}

paro_status check_one(const InputShapes& shapes, Input input,
                      std::initializer_list<int64_t> expected) {
  const TensorShape& shape = shapes[input];
  if (std::equal(expected.begin(), expected.end(), shape.sizes.begin(),
                 shape.sizes.begin() + shape.rank)) {
    return PARO_OK;
  }
  TensorShape wanted{.rank = static_cast<int32_t>(expected.size()), .sizes = {}};
  std::copy(expected.begin(), expected.end(), wanted.sizes.begin());
  return fail(PARO_INVALID_ARGUMENT, "%s: expected shape %s with a query of %s, got %s",
              kInputs[input].name, ShapeText(wanted).text, ShapeText(shapes[kQuery]).text,
              ShapeText(shape).text);
}

paro_status check_shapes(const InputShapes& shapes, const paro_attention& call, int32_t version) {
  const int64_t batch = call.batch, tokens = call.tokens, heads = call.heads;
  const int64_t kv_heads = call.kv_heads, head_dim = call.head_dim;
  const Shape blocks = Shape::of(call);
  const auto check = [&](Input input, std::initializer_list<int64_t> expected) {
    return check_one(shapes, input, expected);
  };
  PARO_RETURN_IF_ERROR(check(kKey, {batch, tokens, kv_heads, head_dim}));
  PARO_RETURN_IF_ERROR(check(kValue, {batch, tokens, kv_heads, head_dim}));
  PARO_RETURN_IF_ERROR(check(kTokenOrder, {call.orders, tokens}));
  PARO_RETURN_IF_ERROR(check(kHeadOrder, {heads}));
  PARO_RETURN_IF_ERROR(
      check(kBlockMask, {call.bins, heads, blocks.query_blocks, blocks.mask_words}));
  PARO_RETURN_IF_ERROR(check(kTileOrder, {call.bins, heads * blocks.query_blocks}));
  PARO_RETURN_IF_ERROR(check(kChannelAffine, {PARO_AFFINE_ROWS, kv_heads, head_dim}));
  PARO_RETURN_IF_ERROR(check(kMaskBin, {batch}));
  PARO_RETURN_IF_ERROR(check(kKeyLength, {batch}));
  if (version == kVersion1) return PARO_OK;
  PARO_RETURN_IF_ERROR(
      check(kFineMask, {call.bins, heads, blocks.query_blocks, blocks.mask_words}));
  PARO_RETURN_IF_ERROR(check(kCorrectedHeads, {heads}));
  PARO_RETURN_IF_ERROR(check(kDynamicBlocks, {call.bins, heads}));
  return check(kRotation, {kv_heads, head_dim});
}

}  // namespace

paro_status describe_call(const Attributes& attributes, paro_dtype dtype, const InputShapes& shapes,
                          paro_attention& call) noexcept {
  PARO_RETURN_IF_ERROR(
      check_ranks(shapes, static_cast<size_t>(input_count(attributes.version))));
  const auto size = [&](Input input, size_t dimension) {
    return static_cast<int32_t>(shapes[input].sizes[dimension]);
  };
  call = {};
  call.struct_size = sizeof call;
  call.batch = size(kQuery, 0);
  call.tokens = size(kQuery, 1);
  call.heads = size(kQuery, 2);
  call.kv_heads = size(kKey, 2);
  call.head_dim = size(kQuery, 3);
  call.orders = size(kTokenOrder, 0);
  call.bins = size(kBlockMask, 0);
  call.dtype = dtype;
  call.block_q = attributes.block_q;
  call.block_k = attributes.block_k;
  call.qk_bits = attributes.qk_bits;
  call.pv_bits = attributes.pv_bits;
  call.pool_dropped = attributes.pool_dropped;
  call.fine_summaries = attributes.fine_summaries;
  call.mean_correction = attributes.mean_correction;
  call.routing = attributes.routing;
  call.smoothing = attributes.smoothing;
  call.scale = attributes.scale;
  PARO_RETURN_IF_ERROR(check_block_grid(call));  // Shape::of divides by these
  return check_shapes(shapes, call, attributes.version);
}

void point_to(const InputAddresses& inputs, void* output, paro_attention& call) noexcept {
  const auto integers = [&](Input input) { return static_cast<const int32_t*>(inputs[input]); };
  call.query = inputs[kQuery];
  call.key = inputs[kKey];
  call.value = inputs[kValue];
  call.token_order = integers(kTokenOrder);
  call.head_order = integers(kHeadOrder);
  call.block_mask = integers(kBlockMask);
  call.tile_order = integers(kTileOrder);
  call.channel_affine = static_cast<const float*>(inputs[kChannelAffine]);
  call.mask_bin = integers(kMaskBin);
  call.key_length = integers(kKeyLength);
  if (call.fine_summaries) call.fine_mask = integers(kFineMask);
  if (call.mean_correction) call.corrected_heads = integers(kCorrectedHeads);
  if (call.routing) call.dynamic_blocks = integers(kDynamicBlocks);
  if (call.smoothing) call.rotation = integers(kRotation);
  call.output = output;
}

}  // namespace paro
