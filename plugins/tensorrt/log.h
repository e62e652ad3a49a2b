// What the plugin says when it refuses: one line on standard error. TensorRT's ILogger is not used,
// since its virtual functions moved between major versions.
#pragma once

#include "paro/paro_c.h"

namespace paro::trt {

// Writes "[paro] error: PAROAttention: <message>" and returns `status`.
paro_status refuse(paro_status status, const char* format, ...) noexcept
    __attribute__((format(printf, 2, 3)));

// The same with the kernel library's own last message.
paro_status refuse_as_kernels_did(paro_status status, const char* during) noexcept;

}  // namespace paro::trt
