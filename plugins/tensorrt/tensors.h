// The op's tensors as TensorRT describes them: which numbers of them and types the plugin takes.
#pragma once

#include <array>
#include <cstdint>

#include "attributes.h"
#include "nv_infer.h"
#include "paro/paro_c.h"

namespace paro::trt {

inline constexpr int32_t kOutputCount = 1;

// The types of an input, by its place, where query has type `query`.
nvinfer1::DataType input_type(int32_t index, nvinfer1::DataType query) noexcept;

// FP16 and BF16, the types of query that the plugin takes.
bool is_query_type(nvinfer1::DataType type) noexcept;

// Refuses numbers of tensors that are not the op's.
paro_status check_counts(int32_t inputs, int32_t outputs) noexcept;

// Refuses types that are not the op's.
paro_status check_types(const std::array<nvinfer1::DataType, kInputCount>& types) noexcept;

// The same tensors as describe_call takes them.
TensorShape shape_of(const nvinfer1::Dims& dims) noexcept;
paro_dtype dtype_of(nvinfer1::DataType query_type) noexcept;

}  // namespace paro::trt
