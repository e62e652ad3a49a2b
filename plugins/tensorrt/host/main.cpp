// paro_plugin_harness: calls the plugin as TensorRT would, on a machine without TensorRT. The
// kernels compute in host memory (CPU backend or emulator), or on the first GPU if the last
// argument is `cuda`.
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "commands.h"

namespace {

constexpr const char* kUsage =
    "usage: paro_plugin_harness contract LIBRARY\n"
    "       paro_plugin_harness life LIBRARY CASE_FOLDER OUTPUT [cuda]\n"
    "       paro_plugin_harness misuse LIBRARY CASE_FOLDER [cuda]\n";

int run(std::vector<std::string> words) {
  using namespace paro::trt::host;
  const bool cuda = !words.empty() && words.back() == "cuda";
  if (cuda) words.pop_back();
  const std::string command = words.size() > 1 ? words[0] : "";
  const auto memory = [&] { return cuda ? cuda_memory() : host_memory(); };
  if (command == "contract" && words.size() == 2) return print_contract(PluginLibrary(words[1]));
  if (command == "life" && words.size() == 4) {
    return live(PluginLibrary(words[1]), read_case(words[2]), *memory(), words[3]);
  }
  if (command == "misuse" && words.size() == 3) {
    return misuse(PluginLibrary(words[1]), read_case(words[2]), *memory());
  }
  std::fputs(kUsage, stderr);
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::printf("FAILED: %s\n", error.what());
    return 1;
  }
}
