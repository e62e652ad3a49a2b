// The last error of the calling thread, which paro_last_error returns.
#pragma once

#include "paro/paro_c.h"

namespace paro {

// Records "argument: expected ..., got ..." and returns `status`.
paro_status fail(paro_status status, const char* format, ...) noexcept
    __attribute__((format(printf, 2, 3)));

const char* last_error() noexcept;

}  // namespace paro
