// The op PAROAttention for ONNX Runtime, with one overload for each float type.
#pragma once

#include "backend.h"
#include "ort_abi.h"
#include "paro/paro_c.h"

namespace paro::ort {

// Must live as long as any session that it was registered with.
struct AttentionOp : CustomOp {
  AttentionOp(const Api& runtime, const Backend& computes, ElementType element_type,
              paro_dtype same_dtype, int32_t thread_count) noexcept;

  const Api& api;
  const Backend& backend;
  ElementType element;  // of query, key, value and output
  paro_dtype dtype;     // the same in the C ABI
  int32_t threads;      // on a CPU. 0: one thread for each core that the process may use
};

}  // namespace paro::ort
