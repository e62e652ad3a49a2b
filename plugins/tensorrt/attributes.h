// The op's attributes as plugin fields: those that the ONNX parser passes, and those that an engine
// stores.
#pragma once

#include <array>
#include <cstdint>

#include "../common/describe_call.h"
#include "nv_infer.h"
#include "paro/paro_c.h"

namespace paro::trt {

// What a node or an engine says: the op's attributes, and how the engine is to be built.
struct PluginAttributes : Attributes {
  int32_t max_workspace_mib = 0;  // heads are taken in groups that need no more; 0: all at once
};

// Names and types that a node may carry, without data: what IPluginCreatorV3One::getFieldNames
// gives. `plugin_version` and `plugin_namespace` are TensorRT's own and never reach a plugin.
const nvinfer1::PluginFieldCollection* advertised_fields(int32_t version) noexcept;

// Reads and checks the fields of a node (kBUILD) or of an engine (kRUNTIME) of this version of the
// op.
paro_status read_fields(const nvinfer1::PluginFieldCollection* fields,
                        nvinfer1::TensorRTPhase phase, int32_t version,
                        PluginAttributes& attributes) noexcept;

// Fields that an engine stores. They point into `attributes`, which must outlive them.
struct StoredFields {
  static constexpr size_t kMost = 12;
  std::array<nvinfer1::PluginField, kMost> fields;
  int32_t count = 0;
};
StoredFields stored_fields(const PluginAttributes& attributes) noexcept;

}  // namespace paro::trt
