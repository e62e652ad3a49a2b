// The library's entry points, in the form in which IPluginRegistry::loadLibrary looks them up.
#include "creator.h"
#include "nv_infer.h"

namespace paro::trt {
namespace {

// Creators are never destroyed, because a registry may call them until the process ends.
union Immortal {
  explicit Immortal(int32_t version) : creator(version) {}
  ~Immortal() {}
  AttentionCreator creator;
};

}  // namespace
}  // namespace paro::trt

#define PARO_TRT_EXPORT extern "C" __attribute__((visibility("default")))

PARO_TRT_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) noexcept {
  static paro::trt::Immortal version_1(paro::kVersion1), version_2(paro::kVersion2);
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&version_1.creator,
                                                                &version_2.creator};
  count = 2;
  return creators;
}

// loadLibrary refuses a library without this function. The plugin does not use the finder: log.h
// gives the reason.
PARO_TRT_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder*) noexcept {}
