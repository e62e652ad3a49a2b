// The op's attributes as plugin fields: those that the ONNX parser passes, and those that an engine
// stores.
#pragma once

#include <array>
#include <cstdint>

#include "../common/describe_call.h"
#include "nv_infer.h"
#include "paro/paro_c.h"

namespace paro::trt {

// The names and types of the fields that a node may carry, without data. The creator's
// getFieldNames returns them. TensorRT handles `plugin_version` and `plugin_namespace` itself and
// never passes them to a plugin.
const nvinfer1::PluginFieldCollection* advertised_fields() noexcept;

// Reads and checks the fields of a node (kBUILD) or of an engine (kRUNTIME).
paro_status read_fields(const nvinfer1::PluginFieldCollection* fields,
                        nvinfer1::TensorRTPhase phase, Attributes& attributes) noexcept;

// The fields that an engine stores. They point into `attributes`, which must outlive them.
using StoredFields = std::array<nvinfer1::PluginField, 7>;
StoredFields stored_fields(const Attributes& attributes) noexcept;

}  // namespace paro::trt
