// A stub of TensorRT's runtime, as far as samples/cpp calls it: its engine takes float16
// `hidden_states` [n, 3], n of 1 to 2 or 3 to 4 by its two profiles, and int32 `mask_bin` [n], and
// returns both as they are, the second one higher. For tests without TensorRT; the sample compiles against the real headers too.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <string>

struct CUstream_st;

namespace nvinfer1 {

enum class DataType : int32_t { kFLOAT, kHALF, kINT8, kINT32, kBOOL, kUINT8, kFP8, kBF16, kINT64 };
enum class TensorIOMode : int32_t { kNONE, kINPUT, kOUTPUT };
enum class OptProfileSelector : int32_t { kMIN, kOPT, kMAX };

struct Dims {
  static constexpr int32_t MAX_DIMS = 8;
  int32_t nbDims;
  int64_t d[MAX_DIMS];
};

class ILogger {
 public:
  enum class Severity : int32_t { kINTERNAL_ERROR, kERROR, kWARNING, kINFO, kVERBOSE };
  virtual void log(Severity severity, const char* message) noexcept = 0;
  virtual ~ILogger() = default;
};

class IPluginRegistry {
 public:
  void* loadLibrary(const char* path) noexcept {
    return std::string(path).ends_with(".so") ? this : nullptr;
  }
};

class IExecutionContext {
 public:
  bool setInputShape(const char* name, const Dims& shape) noexcept {
    shapes_[name] = shape;
    return profile_ == (shape.d[0] > 2) && shape.d[0] <= 4;
  }
  bool setOptimizationProfileAsync(int32_t profile, CUstream_st*) noexcept {
    profile_ = profile;
    return profile >= 0 && profile < 2;
  }
  Dims getTensorShape(const char* name) const noexcept {
    return shapes_.at(name == std::string("sample") ? "hidden_states" : "mask_bin");
  }
  bool setTensorAddress(const char* name, void* address) noexcept {
    addresses_[name] = address;
    return true;
  }
  bool enqueueV3(CUstream_st*) noexcept {
    const int64_t batch = shapes_.at("mask_bin").d[0];
    std::memcpy(addresses_.at("sample"), addresses_.at("hidden_states"), size_t(batch) * 3 * 2);
    const auto* from = static_cast<const int32_t*>(addresses_.at("mask_bin"));
    auto* to = static_cast<int32_t*>(addresses_.at("next_bin"));
    for (int64_t index = 0; index < batch; ++index) to[index] = from[index] + 1;
    return true;
  }

 private:
  std::map<std::string, Dims> shapes_;
  std::map<std::string, void*> addresses_;
  int32_t profile_ = -1;
};

class ICudaEngine {
 public:
  int32_t getNbIOTensors() const noexcept { return 4; }
  const char* getIOTensorName(int32_t index) const noexcept {
    constexpr const char* kNames[] = {"sample", "hidden_states", "mask_bin", "next_bin"};
    return kNames[index];
  }
  TensorIOMode getTensorIOMode(const char* name) const noexcept {
    const std::string text = name;
    const bool input = text == "hidden_states" || text == "mask_bin";
    return input ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
  }
  DataType getTensorDataType(const char* name) const noexcept {
    return std::string(name).ends_with("_bin") ? DataType::kINT32 : DataType::kHALF;
  }
  int32_t getNbOptimizationProfiles() const noexcept { return 2; }
  Dims getProfileShape(const char* name, int32_t profile, OptProfileSelector bound) const noexcept {
    const int64_t batch = (bound == OptProfileSelector::kMIN ? 1 : 2) + 2 * profile;
    return name == std::string("mask_bin") ? Dims{1, {batch}} : Dims{2, {batch, 3}};
  }
  IExecutionContext* createExecutionContext() noexcept { return new IExecutionContext; }
};

class IRuntime {
 public:
  IPluginRegistry& getPluginRegistry() noexcept { return registry_; }
  ICudaEngine* deserializeCudaEngine(const void*, size_t size) noexcept {
    return size == 6 ? new ICudaEngine : nullptr;
  }

 private:
  IPluginRegistry registry_;
};

inline IRuntime* createInferRuntime(ILogger&) noexcept { return new IRuntime; }

}  // namespace nvinfer1
