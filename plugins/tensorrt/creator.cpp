#include "creator.h"

#include <new>

#include "log.h"

namespace paro::trt {

nvinfer1::IPluginV3* AttentionCreator::createPlugin(const char* name,
                                                    const nvinfer1::PluginFieldCollection* fc,
                                                    nvinfer1::TensorRTPhase phase) noexcept {
  PluginAttributes attributes;
  if (read_fields(fc, phase, version_, attributes) != PARO_OK) return nullptr;
  auto* const plugin = new (std::nothrow) AttentionPlugin(attributes);
  if (plugin == nullptr) {
    refuse(PARO_RUNTIME_ERROR, "memory: expected room for layer %s, got none", name ? name : "?");
  }
  return plugin;
}

const nvinfer1::PluginFieldCollection* AttentionCreator::getFieldNames() noexcept {
  return advertised_fields(version_);
}

}  // namespace paro::trt
