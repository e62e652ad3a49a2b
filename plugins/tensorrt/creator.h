// The creator: the object that TensorRT finds in its registry and asks for plugins.
#pragma once

#include "nv_infer.h"
#include "plugin.h"

namespace paro::trt {

// Makes plugins of one version of the op.
class AttentionCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit AttentionCreator(int32_t version) noexcept : version_(version) {}

  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fc,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override;
  const char* getPluginName() const noexcept override { return kPluginName; }
  const char* getPluginVersion() const noexcept override { return plugin_version(version_); }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

 private:
  int32_t version_;
};

}  // namespace paro::trt
