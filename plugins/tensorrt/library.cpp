// The library's entry points, in the form in which IPluginRegistry::loadLibrary looks them up.
#include "creator.h"
#include "nv_infer.h"

namespace paro::trt {
namespace {

// The creator is never destroyed, because a registry may call it until the process ends.
union Immortal {
  Immortal() : creator() {}
  ~Immortal() {}
  AttentionCreator creator;
};

}  // namespace
}  // namespace paro::trt

#define PARO_TRT_EXPORT extern "C" __attribute__((visibility("default")))

PARO_TRT_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) noexcept {
  static paro::trt::Immortal immortal;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&immortal.creator};
  count = 1;
  return creators;
}

// loadLibrary refuses a library without this function. The plugin does not use the finder: log.h
// gives the reason.
PARO_TRT_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder*) noexcept {}
