// The plugin library, loaded and asked as IPluginRegistry::loadLibrary does, and its plugins.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "../nv_infer.h"
#include "case.h"

namespace paro::trt::host {

class PluginLibrary {
 public:
  // Throws std::runtime_error where TensorRT would refuse the library.
  explicit PluginLibrary(const std::string& path);
  ~PluginLibrary();
  PluginLibrary(const PluginLibrary&) = delete;
  PluginLibrary& operator=(const PluginLibrary&) = delete;

  const std::vector<nvinfer1::IPluginCreatorInterface*>& creators() const { return creators_; }

  // The only creator, which is of the V3 kind.
  nvinfer1::IPluginCreatorV3One& creator() const;

 private:
  void* handle_;
  std::vector<nvinfer1::IPluginCreatorInterface*> creators_;
};

using Plugin = std::unique_ptr<nvinfer1::IPluginV3>;

// Null where the creator refuses.
Plugin create(nvinfer1::IPluginCreatorV3One& creator, const std::vector<Field>& fields,
              nvinfer1::TensorRTPhase phase);

nvinfer1::IPluginV3OneCore& core_of(const Plugin& plugin);
nvinfer1::IPluginV3OneBuild& build_of(const Plugin& plugin);
nvinfer1::IPluginV3OneRuntime& runtime_of(const Plugin& plugin);

bool is_kind(const nvinfer1::IVersionedInterface& object, const std::string& kind);

}  // namespace paro::trt::host
