// The library's entry points, as IPluginRegistry::loadLibrary looks them up.
#include "creator.h"
#include "nv_infer.h"

namespace paro::trt {
namespace {

// Registries may ask a creator until the process ends: it is never destroyed.
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

// loadLibrary refuses a library without it. The finder is left alone: see log.h.
PARO_TRT_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder*) noexcept {}
