// PAROAttention as a TensorRT layer. One object provides the core, build and runtime capabilities.
#pragma once

#include <array>

#include "attributes.h"
#include "nv_infer.h"
#include "paro/paro_c.h"

namespace paro::trt {

inline constexpr const char* kPluginName = "PAROAttention";
constexpr const char* plugin_version(int32_t version) { return version == kVersion1 ? "1" : "2"; }
inline constexpr const char* kPluginNamespace = "";

// The plugin holds its attributes and no other state. Calls are therefore independent of each
// other, in any order and on any number of contexts and streams.
class AttentionPlugin final : public nvinfer1::IPluginV3,
                              public nvinfer1::IPluginV3OneCore,
                              public nvinfer1::IPluginV3OneBuild,
                              public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit AttentionPlugin(const PluginAttributes& attributes) noexcept;

  // IPluginV3
  nvinfer1::IPluginCapability* getCapabilityInterface(
      nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  // IPluginV3OneCore
  const char* getPluginName() const noexcept override { return kPluginName; }
  const char* getPluginVersion() const noexcept override {
    return plugin_version(attributes_.version);
  }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

  // IPluginV3OneBuild. The kernels choose their own tiles, so there are no tactics to time.
  int32_t getNbOutputs() const noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType* outputTypes, int32_t nbOutputs,
                             const nvinfer1::DataType* inputTypes,
                             int32_t nbInputs) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t nbInputs,
                          const nvinfer1::DimsExprs* shapeInputs, int32_t nbShapeInputs,
                          nvinfer1::DimsExprs* outputs, int32_t nbOutputs,
                          nvinfer1::IExprBuilder& exprBuilder) noexcept override;
  bool supportsFormatCombination(int32_t pos, const nvinfer1::DynamicPluginTensorDesc* inOut,
                                 int32_t nbInputs, int32_t nbOutputs) noexcept override;
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t nbInputs,
                          const nvinfer1::DynamicPluginTensorDesc* out,
                          int32_t nbOutputs) noexcept override;
  size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t nbInputs,
                          const nvinfer1::DynamicPluginTensorDesc* outputs,
                          int32_t nbOutputs) const noexcept override;
  const char* getTimingCacheID() noexcept override { return identity_.data(); }
  const char* getMetadataString() noexcept override { return identity_.data(); }

  // IPluginV3OneRuntime
  int32_t setTactic(int32_t tactic) noexcept override;
  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t nbInputs,
                        const nvinfer1::PluginTensorDesc* out, int32_t nbOutputs) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* inputDesc,
                  const nvinfer1::PluginTensorDesc* outputDesc, const void* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 private:
  PluginAttributes attributes_;
  std::array<char, 288> identity_;  // attributes, kernel library and its build, as text
  StoredFields stored_;             // filled when asked for: it points into this very object
  nvinfer1::PluginFieldCollection stored_collection_;
};

}  // namespace paro::trt
