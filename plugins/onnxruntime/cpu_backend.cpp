#include "backend.h"

namespace paro::ort {

const Backend* find_backend(const char**) noexcept {
  static constexpr Backend backend{.provider = nullptr,
                                   .uses_provider = false,
                                   .api_version = kApiVersion,
                                   .workspace_bytes = paro_workspace_bytes,
                                   .forward = paro_forward,
                                   .last_error = paro_last_error};
  return &backend;
}

}  // namespace paro::ort
