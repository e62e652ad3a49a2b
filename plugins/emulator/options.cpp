#include "emulator/options.h"

#include <algorithm>
#include <cstdlib>

namespace paro::emulator {
namespace {

unsigned long environment_number(const char* name, unsigned long otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr || *text == '\0' ? otherwise : std::strtoul(text, nullptr, 0);
}

}  // namespace

Options Options::from_environment() {
  Options result;
  result.late = environment_number("PARO_EMULATOR_LATE", result.late) != 0;
  result.seed = static_cast<uint32_t>(environment_number("PARO_EMULATOR_SEED", result.seed));
  result.os_threads =
      static_cast<int>(std::clamp(environment_number("PARO_EMULATOR_THREADS", 1), 1ul, 256ul));
  result.stack_bytes = std::clamp(environment_number("PARO_EMULATOR_STACK_KB", 128), 16ul, 16384ul)
                       << 10;
  result.registers_per_thread =
      static_cast<int>(std::min(environment_number("PARO_EMULATOR_REGISTERS", 0), 256ul));
  return result;
}

Options& options() {
  static Options current = Options::from_environment();
  return current;
}

}  // namespace paro::emulator
