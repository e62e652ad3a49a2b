// Runs a TensorRT engine with the PAROAttention plugin, without Python:
//
//     run_engine ENGINE PLUGIN_LIBRARY INPUT_FOLDER OUTPUT_FOLDER
//
// Reads INPUT_FOLDER/<name>.npy for each input, writes OUTPUT_FOLDER/<name>.npy for each output.
// Compiles against TensorRT 10 and 11. Check the engine's manifest (ENGINE.json) before deploying:
// TensorRT itself says little when engine, GPU or plugin do not belong together.
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>

#include "npy.h"

namespace {

using nvinfer1::DataType;

class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kWARNING) std::fprintf(stderr, "[TensorRT] %s\n", message);
  }
};

void require(bool done, const std::string& what) {
  if (!done) throw std::runtime_error(what);
}

void check(cudaError_t status, const std::string& what) {
  require(status == cudaSuccess, what + ": " + cudaGetErrorString(status));
}

class DeviceMemory {
 public:
  explicit DeviceMemory(size_t size) { check(cudaMalloc(&address_, size), "device memory"); }
  DeviceMemory(DeviceMemory&& other) noexcept : address_(other.address_) {
    other.address_ = nullptr;
  }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  DeviceMemory& operator=(DeviceMemory&&) = delete;
  ~DeviceMemory() { cudaFree(address_); }
  void* address() const { return address_; }

 private:
  void* address_ = nullptr;
};

struct Tensor {
  std::string name;
  npy::Array host;
  nvinfer1::Dims shape;
  DeviceMemory device;
};

// NumPy has no bfloat16: such tensors travel as 2-byte unsigned integers.
std::string numpy_type(DataType type, const std::string& name) {
  switch (type) {
    case DataType::kFLOAT: return "<f4";
    case DataType::kHALF: return "<f2";
    case DataType::kBF16: return "<u2";
    case DataType::kINT32: return "<i4";
    case DataType::kINT64: return "<i8";
    default: throw std::runtime_error(name + ": a type that this sample does not read");
  }
}

// An engine of tens of GB is mapped, not copied: TensorRT reads it once, and the pages are the
// kernel's to drop.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path) {
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    require(descriptor >= 0, path + ": cannot be read: " + std::strerror(errno));
    struct stat status;
    const bool found = fstat(descriptor, &status) == 0 && status.st_size > 0;
    if (found) {
      size_ = size_t(status.st_size);
      address_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    }
    close(descriptor);
    require(found && address_ != MAP_FAILED, path + ": expected an engine file, got none or empty");
    madvise(address_, size_, MADV_SEQUENTIAL);
  }
  ~MappedFile() { munmap(address_, size_); }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const void* data() const { return address_; }
  size_t size() const { return size_; }

 private:
  void* address_ = MAP_FAILED;
  size_t size_ = 0;
};

size_t element_size(const std::string& type) { return size_t(type.back() - '0'); }

Tensor load_input(const std::string& name, const std::string& type, const std::string& folder) {
  npy::Array array = npy::read(folder + "/" + name + ".npy");
  require(array.type == type, name + ": expected " + type + ", got " + array.type);
  nvinfer1::Dims shape{};
  require(array.shape.size() <= size_t(nvinfer1::Dims::MAX_DIMS), name + ": too many dimensions");
  shape.nbDims = int32_t(array.shape.size());
  size_t bytes = element_size(type);
  for (size_t axis = 0; axis < array.shape.size(); ++axis) {
    shape.d[axis] = array.shape[axis];
    bytes *= size_t(array.shape[axis]);
  }
  require(array.data.size() == bytes, name + ": the file is shorter or longer than its shape");
  DeviceMemory device(bytes);
  check(cudaMemcpy(device.address(), array.data.data(), bytes, cudaMemcpyHostToDevice), name);
  return {name, std::move(array), shape, std::move(device)};
}

bool fits(const nvinfer1::ICudaEngine& engine, const Tensor& tensor, int32_t profile) {
  using Bound = nvinfer1::OptProfileSelector;
  const nvinfer1::Dims low = engine.getProfileShape(tensor.name.c_str(), profile, Bound::kMIN);
  const nvinfer1::Dims high = engine.getProfileShape(tensor.name.c_str(), profile, Bound::kMAX);
  bool within = low.nbDims == tensor.shape.nbDims;
  for (int32_t axis = 0; within && axis < low.nbDims; ++axis) {
    within = low.d[axis] <= tensor.shape.d[axis] && tensor.shape.d[axis] <= high.d[axis];
  }
  return within;
}

// The first optimization profile that takes all inputs: `paro-trt build --batch` makes several.
int32_t choose_profile(const nvinfer1::ICudaEngine& engine, const std::vector<Tensor>& inputs) {
  const Tensor* refused = nullptr;
  for (int32_t profile = 0; profile < engine.getNbOptimizationProfiles(); ++profile) {
    const auto found = std::find_if(inputs.begin(), inputs.end(), [&](const Tensor& tensor) {
      return !fits(engine, tensor, profile);
    });
    if (found == inputs.end()) return profile;
    refused = &*found;
  }
  throw std::runtime_error((refused == nullptr ? std::string("engine") : refused->name) +
                           ": a shape that the engine was not built for");
}

Tensor make_output(nvinfer1::IExecutionContext& context, const std::string& name,
                   const std::string& type) {
  const nvinfer1::Dims shape = context.getTensorShape(name.c_str());
  npy::Array array{type, {shape.d, shape.d + shape.nbDims}, {}};
  size_t bytes = element_size(type);
  for (const int64_t size : array.shape) bytes *= size_t(size);
  array.data.resize(bytes);
  return {name, std::move(array), shape, DeviceMemory(bytes)};
}

void run(const char* engine_path, const char* plugin, const std::string& from,
         const std::string& to) {
  Logger logger;
  const std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
  require(runtime != nullptr, "TensorRT: no runtime");
  // The engine refers to the plugin by name: it must be known before the engine is read.
  require(runtime->getPluginRegistry().loadLibrary(plugin) != nullptr,
          std::string(plugin) + ": expected a plugin library; TensorRT's log says why not");
  const std::unique_ptr<nvinfer1::ICudaEngine> engine([&] {
    const MappedFile plan(engine_path);  // TensorRT keeps no pointer into it
    return runtime->deserializeCudaEngine(plan.data(), plan.size());
  }());
  require(engine != nullptr, std::string(engine_path) + ": expected an engine of this TensorRT, " +
                                 "GPU and plugin; build it again: paro-trt build");
  const std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
  require(context != nullptr, "no room for an execution context");

  std::vector<Tensor> inputs, outputs;
  const auto for_each = [&](nvinfer1::TensorIOMode mode, const auto& action) {
    for (int32_t index = 0; index < engine->getNbIOTensors(); ++index) {
      const char* name = engine->getIOTensorName(index);
      if (engine->getTensorIOMode(name) != mode) continue;
      action(name, numpy_type(engine->getTensorDataType(name), name));
    }
  };
  for_each(nvinfer1::TensorIOMode::kINPUT, [&](const char* name, const std::string& type) {
    inputs.push_back(load_input(name, type, from));
  });
  cudaStream_t stream = nullptr;
  check(cudaStreamCreate(&stream), "stream");
  const int32_t profile = choose_profile(*engine, inputs);
  require(context->setOptimizationProfileAsync(profile, stream),
          "optimization profile " + std::to_string(profile) + ": TensorRT refused it");
  for (const Tensor& tensor : inputs) {
    require(context->setInputShape(tensor.name.c_str(), tensor.shape),
            tensor.name + ": a shape that the engine was not built for");
  }
  for_each(nvinfer1::TensorIOMode::kOUTPUT, [&](const char* name, const std::string& type) {
    outputs.push_back(make_output(*context, name, type));
  });
  for (const auto* tensors : {&inputs, &outputs}) {
    for (const Tensor& tensor : *tensors) {
      require(context->setTensorAddress(tensor.name.c_str(), tensor.device.address()), tensor.name);
    }
  }
  const bool queued = context->enqueueV3(stream);
  check(cudaStreamSynchronize(stream), "execution");
  check(cudaStreamDestroy(stream), "stream");
  require(queued, "execution: TensorRT refused; its log says why");
  for (Tensor& tensor : outputs) {
    check(cudaMemcpy(tensor.host.data.data(), tensor.device.address(), tensor.host.data.size(),
                     cudaMemcpyDeviceToHost),
          tensor.name);
    npy::write(to + "/" + tensor.name + ".npy", tensor.host);
  }
}

}  // namespace

int main(int count, char** words) {
  if (count != 5) {
    std::fprintf(stderr, "usage: %s ENGINE PLUGIN_LIBRARY INPUT_FOLDER OUTPUT_FOLDER\n", words[0]);
    return 2;
  }
  try {
    run(words[1], words[2], words[3], words[4]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
  return 0;
}
