// The plugin library and its plugins, loaded as TensorRT's IPluginRegistry::loadLibrary does it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "../nv_infer.h"
#include "case.h"

namespace paro::trt::host {

class PluginLibrary {
 public:
  // Throws std::runtime_error if TensorRT would refuse the library.
  explicit PluginLibrary(const std::string& path);
  ~PluginLibrary();
  PluginLibrary(const PluginLibrary&) = delete;
  PluginLibrary& operator=(const PluginLibrary&) = delete;

  const std::vector<nvinfer1::IPluginCreatorInterface*>& creators() const { return creators_; }

  // The creator of V3 plugins of this version, "1" or "2".
  nvinfer1::IPluginCreatorV3One& creator(const std::string& version) const;

 private:
  void* handle_;
  std::vector<nvinfer1::IPluginCreatorInterface*> creators_;
};

using Plugin = std::unique_ptr<nvinfer1::IPluginV3>;

// Returns null if the creator refuses the fields.
Plugin create(nvinfer1::IPluginCreatorV3One& creator, const std::vector<Field>& fields,
              nvinfer1::TensorRTPhase phase);

nvinfer1::IPluginV3OneCore& core_of(const Plugin& plugin);
nvinfer1::IPluginV3OneBuild& build_of(const Plugin& plugin);
nvinfer1::IPluginV3OneRuntime& runtime_of(const Plugin& plugin);

bool is_kind(const nvinfer1::IVersionedInterface& object, const std::string& kind);

}  // namespace paro::trt::host
