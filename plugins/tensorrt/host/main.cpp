// paro_plugin_harness: leads the plugin through its life as TensorRT would, on a machine with
// neither TensorRT nor a GPU. Tensors are in host memory, so the library must be one whose kernels
// run there: the CPU backend's or the emulator's.
#include <cstdio>
#include <exception>
#include <string>

#include "commands.h"

int main(int argc, char** argv) {
  using namespace paro::trt::host;
  const std::string command = argc > 2 ? argv[1] : "";
  try {
    if (command == "contract" && argc == 3) return print_contract(PluginLibrary(argv[2]));
    if (command == "life" && argc == 5) {
      return live(PluginLibrary(argv[2]), read_case(argv[3]), argv[4]);
    }
    if (command == "misuse" && argc == 4) return misuse(PluginLibrary(argv[2]), read_case(argv[3]));
  } catch (const std::exception& error) {
    std::printf("FAILED: %s\n", error.what());
    return 1;
  }
  std::fprintf(stderr,
               "usage: %s contract LIBRARY\n"
               "       %s life LIBRARY CASE_FOLDER OUTPUT\n"
               "       %s misuse LIBRARY CASE_FOLDER\n",
               argv[0], argv[0], argv[0]);
  return 2;
}
