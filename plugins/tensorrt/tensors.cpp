#include "tensors.h"

#include <algorithm>

#include "log.h"

namespace paro::trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;

constexpr std::array<const char*, 12> kTypeNames = {"FP32",  "FP16",  "INT8", "INT32",
                                                    "BOOL",  "UINT8", "FP8",  "BF16",
                                                    "INT64", "INT4",  "FP4",  "E8M0"};

const char* type_name(DataType type) {
  const auto index = static_cast<size_t>(type);
  return index < kTypeNames.size() ? kTypeNames[index] : "an unknown type";
}

}  // namespace

DataType input_type(int32_t index, DataType query) noexcept {
  if (index <= kValue) return query;
  return index == kChannelAffine ? DataType::kFLOAT : DataType::kINT32;
}

bool is_query_type(DataType type) noexcept {
  return type == DataType::kHALF || type == DataType::kBF16;
}

paro_status check_counts(int32_t version, int32_t inputs, int32_t outputs) noexcept {
  if (inputs == input_count(version) && outputs == kOutputCount) return PARO_OK;
  return refuse(PARO_INVALID_ARGUMENT, "node: expected %d inputs and %d output, got %d and %d",
                input_count(version), kOutputCount, inputs, outputs);
}

paro_status check_types(int32_t version, const DataType* types) noexcept {
  const DataType query = types[kQuery];
  if (!is_query_type(query)) {
    return refuse(PARO_UNSUPPORTED,
                  "query: expected FP16 or BF16, got %s; export the model in fp16 or bf16",
                  type_name(query));
  }
  for (int32_t i = 0; i < input_count(version); ++i) {
    const DataType expected = input_type(i, query);
    const DataType actual = types[i];
    if (actual == expected) continue;
    return refuse(PARO_INVALID_ARGUMENT, "%s: expected %s, got %s; export the model again",
                  kInputs[static_cast<size_t>(i)].name, type_name(expected), type_name(actual));
  }
  return PARO_OK;
}

TensorShape shape_of(const Dims& dims) noexcept {
  static_assert(TensorShape::kMaxRank == Dims::MAX_DIMS);
  TensorShape shape{.rank = dims.nbDims, .sizes = {}};
  std::copy_n(dims.d, TensorShape::kMaxRank, shape.sizes.begin());
  return shape;
}

paro_dtype dtype_of(DataType query_type) noexcept {
  return query_type == DataType::kHALF ? PARO_FLOAT16 : PARO_BFLOAT16;
}

}  // namespace paro::trt
