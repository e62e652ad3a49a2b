// libparo_attention_traced.so: the plugin of libparo_attention_cpu_host.so, every call written
// down. For real builders: a line of JSON a call is appended to the file that PARO_TRACE_FILE
// names.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

#include "../nv_infer.h"

namespace paro::trt::host {
namespace {

using namespace nvinfer1;

void write_line(const std::string& line) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  const char* const path = std::getenv("PARO_TRACE_FILE");
  std::FILE* const file = path == nullptr ? nullptr : std::fopen(path, "a");
  if (file == nullptr) return;
  std::fprintf(file, "%s\n", line.c_str());
  std::fclose(file);
}

void write_call(const char* name, long long result, const std::string& more = "") {
  write_line(std::string("{\"call\": \"") + name + "\", \"result\": " + std::to_string(result) +
             more + "}");
}

std::string list(const Dims& dims) {
  std::string text;
  for (int32_t i = 0; i < dims.nbDims; ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(static_cast<long long>(dims.d[i]));
  }
  return "[" + text + "]";
}

// Bounds of all inputs: "min", "opt" and "max", a list of shapes each.
std::string bounds(const DynamicPluginTensorDesc* tensors, int32_t count) {
  const auto all = [&](const char* name, Dims DynamicPluginTensorDesc::* bound) {
    std::string text;
    for (int32_t i = 0; i < count; ++i) text += (i == 0 ? "" : ", ") + list(tensors[i].*bound);
    return std::string(", \"") + name + "\": [" + text + "]";
  };
  return all("min", &DynamicPluginTensorDesc::min) + all("opt", &DynamicPluginTensorDesc::opt) +
         all("max", &DynamicPluginTensorDesc::max);
}

class Traced final : public IPluginV3,
                     public IPluginV3OneCore,
                     public IPluginV3OneBuild,
                     public IPluginV3OneRuntime {
 public:
  explicit Traced(IPluginV3* plugin) noexcept
      : plugin_(plugin),
        core_(capability<IPluginV3OneCore>(PluginCapabilityType::kCORE)),
        build_(capability<IPluginV3OneBuild>(PluginCapabilityType::kBUILD)),
        runtime_(capability<IPluginV3OneRuntime>(PluginCapabilityType::kRUNTIME)) {}
  ~Traced() override { delete plugin_; }

  IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
    switch (type) {
      case PluginCapabilityType::kCORE:
        return static_cast<IPluginV3OneCore*>(this);
      case PluginCapabilityType::kBUILD:
        return static_cast<IPluginV3OneBuild*>(this);
      case PluginCapabilityType::kRUNTIME:
        return static_cast<IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }
  IPluginV3* clone() noexcept override {
    write_call("clone", 0);
    return new Traced(plugin_->clone());
  }

  const char* getPluginName() const noexcept override { return core_->getPluginName(); }
  const char* getPluginVersion() const noexcept override { return core_->getPluginVersion(); }
  const char* getPluginNamespace() const noexcept override { return core_->getPluginNamespace(); }

  int32_t getNbOutputs() const noexcept override { return build_->getNbOutputs(); }
  int32_t getOutputDataTypes(DataType* outputs, int32_t output_count, const DataType* inputs,
                             int32_t input_count) const noexcept override {
    const int32_t status = build_->getOutputDataTypes(outputs, output_count, inputs, input_count);
    write_call("getOutputDataTypes", status);
    return status;
  }
  int32_t getOutputShapes(const DimsExprs* inputs, int32_t input_count, const DimsExprs* shapes,
                          int32_t shape_count, DimsExprs* outputs, int32_t output_count,
                          IExprBuilder& builder) noexcept override {
    const int32_t status = build_->getOutputShapes(inputs, input_count, shapes, shape_count,
                                                   outputs, output_count, builder);
    write_call("getOutputShapes", status);
    return status;
  }
  bool supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors,
                                 int32_t input_count, int32_t output_count) noexcept override {
    const bool taken =
        build_->supportsFormatCombination(position, tensors, input_count, output_count);
    write_call("supportsFormatCombination", taken);
    return taken;
  }
  int32_t configurePlugin(const DynamicPluginTensorDesc* inputs, int32_t input_count,
                          const DynamicPluginTensorDesc* outputs,
                          int32_t output_count) noexcept override {
    const int32_t status = build_->configurePlugin(inputs, input_count, outputs, output_count);
    write_call("configurePlugin", status, bounds(inputs, input_count));
    return status;
  }
  size_t getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t input_count,
                          const DynamicPluginTensorDesc* outputs,
                          int32_t output_count) const noexcept override {
    const size_t bytes = build_->getWorkspaceSize(inputs, input_count, outputs, output_count);
    write_call("getWorkspaceSize", static_cast<long long>(bytes), bounds(inputs, input_count));
    return bytes;
  }
  const char* getTimingCacheID() noexcept override {
    write_call("getTimingCacheID", 0);
    return build_->getTimingCacheID();
  }
  const char* getMetadataString() noexcept override { return build_->getMetadataString(); }

  int32_t setTactic(int32_t tactic) noexcept override {
    const int32_t status = runtime_->setTactic(tactic);
    write_call("setTactic", status);
    return status;
  }
  int32_t onShapeChange(const PluginTensorDesc* inputs, int32_t input_count,
                        const PluginTensorDesc* outputs, int32_t output_count) noexcept override {
    const int32_t status = runtime_->onShapeChange(inputs, input_count, outputs, output_count);
    write_call("onShapeChange", status);
    return status;
  }
  int32_t enqueue(const PluginTensorDesc* input_desc, const PluginTensorDesc* output_desc,
                  const void* const* inputs, void* const* outputs, void* workspace,
                  cudaStream_t stream) noexcept override {
    const int32_t status =
        runtime_->enqueue(input_desc, output_desc, inputs, outputs, workspace, stream);
    write_call("enqueue", status);
    return status;
  }
  IPluginV3* attachToContext(IPluginResourceContext* context) noexcept override {
    IPluginV3* const attached = runtime_->attachToContext(context);
    write_call("attachToContext", attached == nullptr);
    return attached == nullptr ? nullptr : new Traced(attached);
  }
  const PluginFieldCollection* getFieldsToSerialize() noexcept override {
    const PluginFieldCollection* const fields = runtime_->getFieldsToSerialize();
    write_call("getFieldsToSerialize", fields == nullptr);
    return fields;
  }

 private:
  template <class Interface>
  Interface* capability(PluginCapabilityType type) noexcept {
    return static_cast<Interface*>(plugin_->getCapabilityInterface(type));
  }

  IPluginV3* plugin_;
  IPluginV3OneCore* core_;
  IPluginV3OneBuild* build_;
  IPluginV3OneRuntime* runtime_;
};

class TracedCreator final : public IPluginCreatorV3One {
 public:
  explicit TracedCreator(IPluginCreatorV3One* creator) noexcept : creator_(creator) {}

  IPluginV3* createPlugin(const char* name, const PluginFieldCollection* fields,
                          TensorRTPhase phase) noexcept override {
    IPluginV3* const plugin = creator_->createPlugin(name, fields, phase);
    write_call("createPlugin", plugin == nullptr);
    return plugin == nullptr ? nullptr : new Traced(plugin);
  }
  const PluginFieldCollection* getFieldNames() noexcept override {
    return creator_->getFieldNames();
  }
  const char* getPluginName() const noexcept override { return creator_->getPluginName(); }
  const char* getPluginVersion() const noexcept override { return creator_->getPluginVersion(); }
  const char* getPluginNamespace() const noexcept override {
    return creator_->getPluginNamespace();
  }

 private:
  IPluginCreatorV3One* creator_;
};

// This library needs the traced one, so that it is loaded.
std::vector<IPluginCreatorInterface*> traced_creators() {
  void* const library = dlopen(PARO_TRACED_LIBRARY, RTLD_LAZY | RTLD_NOLOAD);
  using GetCreators = IPluginCreatorInterface* const* (*)(int32_t&);
  auto* const get_creators =
      library == nullptr ? nullptr : reinterpret_cast<GetCreators>(dlsym(library, "getCreators"));
  if (get_creators == nullptr) std::abort();
  int32_t count = 0;
  IPluginCreatorInterface* const* const own = get_creators(count);
  std::vector<IPluginCreatorInterface*> creators;
  for (int32_t i = 0; i < count; ++i) {
    creators.push_back(new TracedCreator(static_cast<IPluginCreatorV3One*>(own[i])));
  }
  return creators;
}

}  // namespace
}  // namespace paro::trt::host

#define PARO_TRT_EXPORT extern "C" __attribute__((visibility("default")))

PARO_TRT_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) noexcept {
  static const auto& creators =
      *new std::vector<nvinfer1::IPluginCreatorInterface*>(paro::trt::host::traced_creators());
  count = static_cast<int32_t>(creators.size());
  return creators.data();
}

PARO_TRT_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder*) noexcept {}
