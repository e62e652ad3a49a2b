// One execution of the node: passes ONNX Runtime's tensors to the C ABI.
#pragma once

#include "../common/describe_call.h"
#include "backend.h"
#include "ort_abi.h"
#include "paro/paro_c.h"
#include "workspace.h"

namespace paro::ort {

// What a node keeps between executions.
struct Node {
  const Api& api;
  const Backend& backend;
  Attributes attributes;
  paro_dtype dtype;
  int32_t threads;
  Workspaces workspaces;
};

// Computes output 0 from the op's inputs, in the provider's stream if it has one. Returns null on
// success.
Status* run_call(const Node& node, KernelContext* context) noexcept;

// Releases `status`, which may be null, and returns whether it was an error.
bool discard(const Api& api, Status* status) noexcept;

// Creates a Status with a printf-style message.
Status* refuse(const Api& api, ErrorCode code, const char* format, ...) noexcept
    __attribute__((format(printf, 3, 4)));

}  // namespace paro::ort
