// Error messages of the plugin: one line on standard error for each refusal. The plugin does not
// use TensorRT's ILogger, because its virtual functions moved between major versions.
#pragma once

#include "paro/paro_c.h"

namespace paro::trt {

// Writes "[paro] error: PAROAttention: <message>" and returns `status`.
paro_status refuse(paro_status status, const char* format, ...) noexcept
    __attribute__((format(printf, 2, 3)));

// Does the same with the last error message of the kernel library.
paro_status refuse_as_kernels_did(paro_status status, const char* during) noexcept;

}  // namespace paro::trt
