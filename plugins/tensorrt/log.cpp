#include "log.h"

#include <cstdarg>
#include <cstdio>

namespace paro::trt {

paro_status refuse(paro_status status, const char* format, ...) noexcept {
  char message[640];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  // Names and texts come from files. Control characters in them would break the line or change the
  // state of a terminal.
  for (char* byte = message; *byte != '\0'; ++byte) {
    if (static_cast<unsigned char>(*byte) < ' ') *byte = '?';
  }
  // One call writes the whole line, so that lines of several threads do not mix.
  std::fprintf(stderr, "[paro] error: PAROAttention: %s\n", message);
  return status;
}

paro_status refuse_as_kernels_did(paro_status status, const char* during) noexcept {
  return refuse(status, "%s: %s (%s)", during, paro_last_error(), paro_library_name());
}

}  // namespace paro::trt
