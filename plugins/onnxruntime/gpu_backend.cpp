// The kernels of a plugin library next to this one, PARO_CORE_LIBRARY, for the execution provider
// PARO_PROVIDER.
#include <dlfcn.h>

#include <cstdio>
#include <string>

#include "backend.h"

namespace paro::ort {
namespace {

std::string own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&find_backend), &info) == 0) return ".";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

struct Loaded {
  Backend backend{.provider = PARO_PROVIDER,
                  .uses_provider = true,
                  .api_version = kDeviceApiVersion,
                  .workspace_bytes = nullptr,
                  .forward = nullptr,
                  .last_error = nullptr};
  std::string failure;
};

template <class Function>
void find(void* core, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(core, name));
}

Loaded load() {
  Loaded loaded;
  // By its full path and never closed; RTLD_LOCAL, so that no other library's functions of the C
  // ABI take its place, nor its own another's.
  void* const core = dlopen((own_folder() + "/" PARO_CORE_LIBRARY).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (core == nullptr) {
    const char* const reason = dlerror();
    loaded.failure = std::string(PARO_CORE_LIBRARY ": expected it next to this library, got: ") +
                     (reason == nullptr ? "no reason" : reason);
    return loaded;
  }
  decltype(&paro_abi_version) abi_version = nullptr;
  find(core, "paro_abi_version", abi_version);
  find(core, "paro_workspace_bytes", loaded.backend.workspace_bytes);
  find(core, "paro_forward", loaded.backend.forward);
  find(core, "paro_last_error", loaded.backend.last_error);
  const uint32_t abi = abi_version == nullptr ? 0 : abi_version();
  if (abi != PARO_ABI_VERSION || loaded.backend.workspace_bytes == nullptr ||
      loaded.backend.forward == nullptr || loaded.backend.last_error == nullptr) {
    loaded.failure = PARO_CORE_LIBRARY ": expected C ABI version " +
                     std::to_string(PARO_ABI_VERSION) + ", got " + std::to_string(abi) +
                     "; install both files of one build";
  }
  return loaded;
}

}  // namespace

const Backend* find_backend(const char** message) noexcept {
  try {
    // Never destroyed: sessions may outlive this library's static objects at exit.
    static const Loaded& loaded = *new Loaded(load());
    *message = loaded.failure.c_str();
    return loaded.failure.empty() ? &loaded.backend : nullptr;
  } catch (...) {
    *message = "memory: expected room for the library's name, got none";
    return nullptr;
  }
}

}  // namespace paro::ort
