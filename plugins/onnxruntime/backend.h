// What computes the op: the functions of the C ABI, and whose memory they work in.
#pragma once

#include "ort_abi.h"
#include "paro/paro_c.h"

namespace paro::ort {

struct Backend {
  // ONNX Runtime's name of the execution provider; null: the CPU's.
  const char* provider;
  // Whether workspaces are the provider's memory and calls go into its stream.
  bool uses_provider;
  // The interface that this takes of ONNX Runtime.
  uint32_t api_version;

  decltype(&paro_workspace_bytes) workspace_bytes;
  decltype(&paro_forward) forward;
  decltype(&paro_last_error) last_error;
};

// The backend of this library: one of cpu_backend.cpp and gpu_backend.cpp, whichever is compiled
// in. Returns null and stores a message if its kernels cannot be loaded.
const Backend* find_backend(const char** message) noexcept;

}  // namespace paro::ort
