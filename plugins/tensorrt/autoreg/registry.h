// TensorRT's plugin registry, called by the number of the virtual function's slot. The slots moved
// between major versions, so no single declaration of the class fits all of them.
#pragma once

#include <cstdint>

#include "../nv_infer.h"

namespace paro::trt {

// Versions are what getInferLibVersion gives: 10000 * major + 100 * minor + patch.
struct RegistrySlots {
  int32_t first_version;
  int32_t end_version;
  int32_t register_creator;
  int32_t get_all_creators;
};

inline constexpr RegistrySlots kRegistrySlots[] = {
    {.first_version = 100000,
     .end_version = 110000,
     .register_creator = 12,
     .get_all_creators = 13},
    {.first_version = 110000, .end_version = 120000, .register_creator = 8, .get_all_creators = 9},
    // TensorRT for RTX 1.7, which is made of TensorRT 11.
    {.first_version = 10700, .end_version = 10800, .register_creator = 8, .get_all_creators = 9}};

class Registry {
 public:
  Registry(void* object, const RegistrySlots& slots) : object_(object), slots_(slots) {}

  bool holds(const nvinfer1::IPluginCreatorInterface* creator) const noexcept {
    int32_t count = 0;
    auto* const creators = slot<GetAllCreators>(slots_.get_all_creators)(object_, &count);
    for (int32_t i = 0; i < count; ++i) {
      if (creators[i] == creator) return true;
    }
    return false;
  }

  // Returns false if the registry already holds a creator of this name and version.
  bool add(nvinfer1::IPluginCreatorInterface& creator) noexcept {
    return slot<RegisterCreator>(slots_.register_creator)(object_, creator, "");
  }

 private:
  using GetAllCreators = nvinfer1::IPluginCreatorInterface* const* (*)(void*, int32_t*);
  using RegisterCreator = bool (*)(void*, nvinfer1::IPluginCreatorInterface&, const char*);

  // In the Itanium C++ ABI, a virtual function takes its object as the first argument.
  template <class Function>
  Function slot(int32_t index) const noexcept {
    return reinterpret_cast<Function>((*static_cast<void***>(object_))[index]);
  }

  void* object_;
  RegistrySlots slots_;
};

}  // namespace paro::trt
