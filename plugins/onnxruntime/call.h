// One execution of the node: passes ONNX Runtime's tensors to the C ABI.
#pragma once

#include "../common/describe_call.h"
#include "ort_abi.h"
#include "paro/paro_c.h"

namespace paro::ort {

// Computes output 0 from the op's inputs. Returns null on success.
Status* run_call(const Api& api, KernelContext* context, const Attributes& attributes,
                 paro_dtype dtype, int32_t threads) noexcept;

// Releases `status`, which may be null, and returns whether it was an error.
bool discard(const Api& api, Status* status) noexcept;

// Creates a Status with a printf-style message.
Status* refuse(const Api& api, ErrorCode code, const char* format, ...) noexcept
    __attribute__((format(printf, 3, 4)));

}  // namespace paro::ort
