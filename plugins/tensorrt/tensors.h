// The op's tensors as TensorRT describes them: how many there are, and the types that the plugin
// accepts.
#pragma once

#include <cstdint>

#include "attributes.h"
#include "nv_infer.h"
#include "paro/paro_c.h"

namespace paro::trt {

inline constexpr int32_t kOutputCount = 1;

// The type of the input at `index`, if query has type `query`.
nvinfer1::DataType input_type(int32_t index, nvinfer1::DataType query) noexcept;

// Whether the plugin accepts this type for query: FP16 or BF16.
bool is_query_type(nvinfer1::DataType type) noexcept;

// Refuses numbers of inputs or outputs that this version of the op does not have.
paro_status check_counts(int32_t version, int32_t inputs, int32_t outputs) noexcept;

// Refuses types that the op does not have. `types` has as many as this version has inputs.
paro_status check_types(int32_t version, const nvinfer1::DataType* types) noexcept;

// The shape in the form that describe_call takes.
TensorShape shape_of(const nvinfer1::Dims& dims) noexcept;
paro_dtype dtype_of(nvinfer1::DataType query_type) noexcept;

}  // namespace paro::trt
