#include "plugin_library.h"

#include <dlfcn.h>

#include <stdexcept>

namespace paro::trt::host {
namespace {

using nvinfer1::IPluginCreatorInterface;
using nvinfer1::PluginCapabilityType;

template <class Function>
Function symbol(void* handle, const char* name) {
  void* const address = dlsym(handle, name);
  if (address == nullptr) throw std::runtime_error(std::string("no ") + name + " in the library");
  return reinterpret_cast<Function>(address);
}

template <class Capability>
Capability& capability(const Plugin& plugin, PluginCapabilityType type, const char* kind) {
  auto* const found = plugin->getCapabilityInterface(type);
  if (found == nullptr || !is_kind(*found, kind)) {
    throw std::runtime_error(std::string("no capability ") + kind);
  }
  return *static_cast<Capability*>(found);
}

}  // namespace

PluginLibrary::PluginLibrary(const std::string& path)
    : handle_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (handle_ == nullptr) throw std::runtime_error(dlerror());
  // An invalid address: the plugin must not use the finder, and would crash if it did.
  symbol<void (*)(nvinfer1::ILoggerFinder*)>(
      handle_, "setLoggerFinder")(reinterpret_cast<nvinfer1::ILoggerFinder*>(uintptr_t{8}));
  int32_t count = -1;
  using GetCreators = IPluginCreatorInterface* const* (*)(int32_t&);
  IPluginCreatorInterface* const* const list = symbol<GetCreators>(handle_, "getCreators")(count);
  creators_.assign(list, list + count);
}

PluginLibrary::~PluginLibrary() { dlclose(handle_); }

nvinfer1::IPluginCreatorV3One& PluginLibrary::creator(const std::string& version) const {
  for (IPluginCreatorInterface* const creator : creators_) {
    if (!is_kind(*creator, "PLUGIN CREATOR_V3ONE")) continue;
    auto& found = *static_cast<nvinfer1::IPluginCreatorV3One*>(creator);
    if (version == found.getPluginVersion()) return found;
  }
  throw std::runtime_error("expected a creator of V3 plugins of version " + version);
}

Plugin create(nvinfer1::IPluginCreatorV3One& creator, const std::vector<Field>& fields,
              nvinfer1::TensorRTPhase phase) {
  return Plugin(creator.createPlugin("layer", FieldCollection(fields).get(), phase));
}

nvinfer1::IPluginV3OneCore& core_of(const Plugin& plugin) {
  return capability<nvinfer1::IPluginV3OneCore>(plugin, PluginCapabilityType::kCORE,
                                                "PLUGIN_V3ONE_CORE");
}

nvinfer1::IPluginV3OneBuild& build_of(const Plugin& plugin) {
  return capability<nvinfer1::IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD,
                                                 "PLUGIN_V3ONE_BUILD");
}

nvinfer1::IPluginV3OneRuntime& runtime_of(const Plugin& plugin) {
  return capability<nvinfer1::IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME,
                                                   "PLUGIN_V3ONE_RUNTIME");
}

bool is_kind(const nvinfer1::IVersionedInterface& object, const std::string& kind) {
  const nvinfer1::InterfaceInfo info = object.getInterfaceInfo();
  return object.getAPILanguage() == nvinfer1::APILanguage::kCPP && info.kind == kind &&
         info.major == 1 && info.minor == 0;
}

}  // namespace paro::trt::host
