// The op's tensors as TensorRT describes them, checked and turned into a call of the C ABI.
#pragma once

#include <array>
#include <cstdint>

#include "attributes.h"
#include "nv_infer.h"
#include "paro/paro_c.h"

namespace paro::trt {

inline constexpr int32_t kInputCount = 10;
inline constexpr int32_t kOutputCount = 1;

// The types of an input, by its place, where query has type `query`.
nvinfer1::DataType input_type(int32_t index, nvinfer1::DataType query) noexcept;

// FP16 and BF16, the types of query that the plugin takes.
bool is_query_type(nvinfer1::DataType type) noexcept;

// Refuses numbers of tensors that are not the op's.
paro_status check_counts(int32_t inputs, int32_t outputs) noexcept;

// Refuses types that are not the op's.
paro_status check_types(const std::array<nvinfer1::DataType, kInputCount>& types) noexcept;

// Fills all of `call` but its pointers; refuses ranks and sizes that do not fit together. A batch
// of 0 is accepted: the caller has then nothing to compute.
paro_status describe_call(const Attributes& attributes, nvinfer1::DataType query_type,
                          const std::array<nvinfer1::Dims, kInputCount>& shapes,
                          paro_attention& call) noexcept;

// Fills the pointers of `call`.
void point_to(const void* const* inputs, void* const* outputs, paro_attention& call) noexcept;

}  // namespace paro::trt
