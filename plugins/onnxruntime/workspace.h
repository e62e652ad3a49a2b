// Memory for one execution of the node.
#pragma once

#include "backend.h"
#include "ort_abi.h"

namespace paro::ort {

struct Workspace {
  void* block = nullptr;    // as it was allocated
  void* aligned = nullptr;  // in it, to 256 bytes
};

// What a node keeps of ONNX Runtime's memory. Without an allocator, memory is the process's own.
class Workspaces {
 public:
  Workspaces() = default;
  Workspaces(const Workspaces&) = delete;
  Workspaces& operator=(const Workspaces&) = delete;
  ~Workspaces();

  // Takes the provider's allocator if the backend uses it.
  Status* open(const Api& api, const Backend& backend, const KernelInfo* info) noexcept;

  // Stores memory for `stream`. With a stream, the memory is its own: other streams, in which
  // further calls of the session may run at the same time, are not lent it before they have waited.
  Status* take(KernelContext* context, void* stream, size_t bytes, Workspace& workspace)
      const noexcept;

  void give_back(const Workspace& workspace) const noexcept;

 private:
  const Api* api_ = nullptr;
  Allocator* allocator_ = nullptr;
};

}  // namespace paro::ort
