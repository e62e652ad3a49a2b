// Loaded by plain dlopen (trtexec --staticPlugins, Polygraphy --plugins, Triton's plugins=), it
// registers the plugin library next to it with every TensorRT of this process. Harmless if
// repeated. Where none is loaded yet, it loads the one that a library linked to TensorRT would get.
#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "registry.h"

namespace paro::trt {
namespace {

using nvinfer1::IPluginCreatorInterface;

void complain(const std::string& message) {
  std::fprintf(stderr, "[paro] error: " PARO_CORE_LIBRARY ": %s\n", message.c_str());
}

// Paths of all loaded objects. The path of the program itself is empty.
std::vector<std::string> loaded_objects() {
  std::vector<std::string> paths;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* out) {
        static_cast<std::vector<std::string>*>(out)->emplace_back(info->dlpi_name);
        return 0;
      },
      &paths);
  return paths;
}

// A loaded TensorRT; its version is 10000 * major + 100 * minor + patch.
struct Runtime {
  void* registry;
  int32_t version;
};

// Finds TensorRT by an exported symbol, because the file name varies: there are full, lean and
// dispatch runtimes, and some programs link them statically.
std::vector<Runtime> loaded_runtimes() {
  std::vector<Runtime> runtimes;
  for (const std::string& path : loaded_objects()) {
    void* const object = dlopen(path.empty() ? nullptr : path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (object == nullptr) continue;
    auto* const get_registry = reinterpret_cast<void* (*)()>(dlsym(object, "getPluginRegistry"));
    auto* const get_version = reinterpret_cast<int32_t (*)()>(dlsym(object, "getInferLibVersion"));
    if (get_registry != nullptr && get_version != nullptr) {
      void* const registry = get_registry();
      // dlsym also searches the libraries that an object depends on, so it may find one twice.
      const bool known = std::any_of(runtimes.begin(), runtimes.end(),
                                     [&](const Runtime& r) { return r.registry == registry; });
      if (!known && registry != nullptr) runtimes.push_back({registry, get_version()});
    }
    dlclose(object);
  }
  return runtimes;
}

// Polygraphy opens plugins before it imports TensorRT, so this may have to load it. The library
// stays open.
std::vector<Runtime> runtimes_of_process() {
  std::vector<Runtime> runtimes = loaded_runtimes();
  for (const char* const name : {"libnvinfer.so.11", "libnvinfer.so.10"}) {
    if (!runtimes.empty()) break;
    if (dlopen(name, RTLD_LAZY | RTLD_LOCAL) != nullptr) runtimes = loaded_runtimes();
  }
  return runtimes;
}

std::string own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) == 0) return ".";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

// The plugin library's creators. The library is opened by its full path and never closed.
std::vector<IPluginCreatorInterface*> core_creators() {
  const std::string path = own_folder() + "/" PARO_CORE_LIBRARY;
  void* const core = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (core == nullptr) {
    complain(std::string("expected it next to the autoreg library, got: ") + dlerror());
    return {};
  }
  using GetCreators = IPluginCreatorInterface* const* (*)(int32_t&);
  auto* const get_creators = reinterpret_cast<GetCreators>(dlsym(core, "getCreators"));
  if (get_creators == nullptr) {
    complain("expected it to export getCreators, it does not; install both files of one build");
    return {};
  }
  int32_t count = 0;
  IPluginCreatorInterface* const* const creators = get_creators(count);
  return {creators, creators + count};
}

void register_with(const Runtime& runtime, const std::vector<IPluginCreatorInterface*>& creators) {
  const auto* const slots = std::find_if(
      std::begin(kRegistrySlots), std::end(kRegistrySlots), [&](const RegistrySlots& known) {
        return known.first_version <= runtime.version && runtime.version < known.end_version;
      });
  if (slots == std::end(kRegistrySlots)) {
    complain("expected TensorRT 10, 11 or RTX 1.7, found version " +
             std::to_string(runtime.version) + "; not registered there");
    return;
  }
  Registry registry(runtime.registry, *slots);
  for (IPluginCreatorInterface* const creator : creators) {
    if (registry.holds(creator) || registry.add(*creator)) continue;
    complain("expected the only PAROAttention plugin, another library registered one; load either");
    return;
  }
}

__attribute__((constructor)) void register_everywhere() {
  try {
    const std::vector<Runtime> runtimes = runtimes_of_process();
    if (runtimes.empty()) {
      complain(
          "expected TensorRT in this process or on the loader's path, found none; load it before "
          "this library, or add its folder to LD_LIBRARY_PATH");
      return;
    }
    const std::vector<IPluginCreatorInterface*> creators = core_creators();
    for (const Runtime& runtime : runtimes) register_with(runtime, creators);
  } catch (const std::exception& error) {
    complain(error.what());
  }
}

}  // namespace
}  // namespace paro::trt
