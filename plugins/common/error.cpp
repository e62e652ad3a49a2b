#include "error.h"

#include <cstdarg>
#include <cstdio>

namespace paro {
namespace {
thread_local char message[512] = "no error";
}

paro_status fail(paro_status status, const char* format, ...) noexcept {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return status;
}

const char* last_error() noexcept { return message; }

}  // namespace paro
