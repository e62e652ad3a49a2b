#include "tensors.h"

#include <algorithm>
#include <cstdio>
#include <initializer_list>

#include "log.h"

namespace paro::trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;

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
};

struct InputSpec {
  const char* name;
  int32_t rank;
};

constexpr std::array<InputSpec, kInputCount> kInputs = {{
    {"query", 4},
    {"key", 4},
    {"value", 4},
    {"token_order", 2},
    {"head_order", 1},
    {"block_mask", 4},
    {"tile_order", 2},
    {"channel_affine", 3},
    {"mask_bin", 1},
    {"key_length", 1},
}};

constexpr int64_t kMaskWordBits = 32;

constexpr std::array<const char*, 12> kTypeNames = {"FP32",  "FP16",  "INT8", "INT32",
                                                    "BOOL",  "UINT8", "FP8",  "BF16",
                                                    "INT64", "INT4",  "FP4",  "E8M0"};

const char* type_name(DataType type) {
  const auto index = static_cast<size_t>(type);
  return index < kTypeNames.size() ? kTypeNames[index] : "an unknown type";
}

// "[2, 331, 4, 64]".
struct ShapeText {
  explicit ShapeText(const Dims& shape) {
    size_t used = 0;
    const int32_t rank = std::clamp(shape.nbDims, 0, Dims::MAX_DIMS);
    for (int32_t i = 0; i < rank && used < sizeof text - 2; ++i) {
      const int written = std::snprintf(text + used, sizeof text - used, "%s%lld", i ? ", " : "[",
                                        static_cast<long long>(shape.d[i]));
      used = std::min(used + static_cast<size_t>(written), sizeof text - 2);
    }
    std::snprintf(text + used, sizeof text - used, rank ? "]" : "[]");
  }

  char text[128];
};

int64_t blocks_of(int64_t tokens, int64_t block) { return (tokens + block - 1) / block; }

using Shapes = std::array<Dims, kInputCount>;

paro_status check_ranks(const Shapes& shapes) {
  for (int32_t i = 0; i < kInputCount; ++i) {
    const Dims& shape = shapes[static_cast<size_t>(i)];
    const InputSpec& input = kInputs[static_cast<size_t>(i)];
    const bool fits = shape.nbDims == input.rank &&
                      std::all_of(shape.d, shape.d + input.rank,
                                  [](int64_t size) { return size >= 0 && size <= INT32_MAX; });
    if (fits) continue;
    return refuse(PARO_INVALID_ARGUMENT,
                  "input %s: expected %d dimensions of sizes in 0..2^31-1, got %s", input.name,
                  input.rank, ShapeText(shape).text);
  }
  return PARO_OK;
}

paro_status check_shape(const Shapes& shapes, Input input,
                        std::initializer_list<int64_t> expected) {
  const Dims& shape = shapes[input];
  if (std::equal(expected.begin(), expected.end(), shape.d, shape.d + shape.nbDims)) {
    return PARO_OK;
  }
  Dims wanted{};
  wanted.nbDims = static_cast<int32_t>(expected.size());
  std::copy(expected.begin(), expected.end(), wanted.d);
  return refuse(PARO_INVALID_ARGUMENT, "input %s: expected shape %s beside query %s, got %s",
                kInputs[input].name, ShapeText(wanted).text, ShapeText(shapes[kQuery]).text,
                ShapeText(shape).text);
}

paro_status check_shapes(const Shapes& shapes, const Attributes& attributes) {
  const int64_t* const query = shapes[kQuery].d;
  const int64_t batch = query[0], tokens = query[1], heads = query[2], head_dim = query[3];
  const int64_t kv_heads = shapes[kKey].d[2];
  const int64_t bins = shapes[kBlockMask].d[0];
  const int64_t query_blocks = blocks_of(tokens, attributes.block_q);
  const int64_t mask_words = blocks_of(blocks_of(tokens, attributes.block_k), kMaskWordBits);
  const auto fits = [&](Input input, std::initializer_list<int64_t> expected) {
    return check_shape(shapes, input, expected);
  };
  // The first that is not PARO_OK, or PARO_OK.
  paro_status status = fits(kKey, {batch, tokens, kv_heads, head_dim});
  if (!status) status = fits(kValue, {batch, tokens, kv_heads, head_dim});
  if (!status) status = fits(kTokenOrder, {shapes[kTokenOrder].d[0], tokens});
  if (!status) status = fits(kHeadOrder, {heads});
  if (!status) status = fits(kBlockMask, {bins, heads, query_blocks, mask_words});
  if (!status) status = fits(kTileOrder, {bins, heads * query_blocks});
  if (!status) status = fits(kChannelAffine, {4, kv_heads, head_dim});
  if (!status) status = fits(kMaskBin, {batch});
  if (!status) status = fits(kKeyLength, {batch});
  return status;
}

}  // namespace

DataType input_type(int32_t index, DataType query) noexcept {
  if (index <= kValue) return query;
  return index == kChannelAffine ? DataType::kFLOAT : DataType::kINT32;
}

bool is_query_type(DataType type) noexcept {
  return type == DataType::kHALF || type == DataType::kBF16;
}

paro_status check_counts(int32_t inputs, int32_t outputs) noexcept {
  if (inputs == kInputCount && outputs == kOutputCount) return PARO_OK;
  return refuse(PARO_INVALID_ARGUMENT, "node: expected %d inputs and %d output, got %d and %d",
                kInputCount, kOutputCount, inputs, outputs);
}

paro_status check_types(const std::array<DataType, kInputCount>& types) noexcept {
  const DataType query = types[kQuery];
  if (!is_query_type(query)) {
    return refuse(PARO_UNSUPPORTED,
                  "input query: expected FP16 or BF16, got %s; export the model in fp16 or bf16",
                  type_name(query));
  }
  for (int32_t i = 0; i < kInputCount; ++i) {
    const DataType expected = input_type(i, query);
    const DataType actual = types[static_cast<size_t>(i)];
    if (actual == expected) continue;
    return refuse(PARO_INVALID_ARGUMENT, "input %s: expected %s, got %s; export the model again",
                  kInputs[static_cast<size_t>(i)].name, type_name(expected), type_name(actual));
  }
  return PARO_OK;
}

paro_status describe_call(const Attributes& attributes, DataType query_type, const Shapes& shapes,
                          paro_attention& call) noexcept {
  if (const paro_status status = check_ranks(shapes)) return status;
  if (const paro_status status = check_shapes(shapes, attributes)) return status;
  const auto size = [&](Input input, int32_t dimension) {
    return static_cast<int32_t>(shapes[input].d[dimension]);
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
  call.dtype = query_type == DataType::kHALF ? PARO_FLOAT16 : PARO_BFLOAT16;
  call.block_q = attributes.block_q;
  call.block_k = attributes.block_k;
  call.qk_bits = attributes.qk_bits;
  call.pv_bits = attributes.pv_bits;
  call.pool_dropped = attributes.pool_dropped;
  call.scale = attributes.scale;
  return PARO_OK;
}

void point_to(const void* const* inputs, void* const* outputs, paro_attention& call) noexcept {
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
  call.output = outputs[0];
}

}  // namespace paro::trt
