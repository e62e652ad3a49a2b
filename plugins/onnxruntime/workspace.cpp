#include "workspace.h"

#include <cstdlib>
#include <memory>

#include "call.h"

namespace paro::ort {
namespace {

constexpr size_t kAlignment = 256;  // of workspaces, by the C ABI

}  // namespace

Workspaces::~Workspaces() {
  if (allocator_ != nullptr) api_->ReleaseAllocator(allocator_);
}

Status* Workspaces::open(const Api& api, const Backend& backend, const KernelInfo* info) noexcept {
  api_ = &api;
  return backend.uses_provider ? api.KernelInfoGetAllocator(info, kDefaultMemory, &allocator_)
                               : nullptr;
}

Status* Workspaces::take(KernelContext* context, void* stream, size_t bytes,
                         Workspace& workspace) const noexcept {
  // ONNX Runtime promises no alignment: its CPU allocator has 64 bytes.
  size_t space = bytes + kAlignment - 1;
  if (allocator_ == nullptr) {
    workspace.block = std::malloc(space);
  } else if (stream == nullptr) {  // a scratch buffer belongs to a stream
    workspace.block = allocator_->Alloc(allocator_, space);
  } else if (Status* const status = api_->KernelContext_GetScratchBuffer(
                 context, allocator_->Info(allocator_), space, &workspace.block)) {
    return status;
  }
  if (workspace.block == nullptr) {
    return refuse(*api_, kFail, "memory: expected %zu bytes of workspace, got none", bytes);
  }
  workspace.aligned = workspace.block;
  std::align(kAlignment, bytes, workspace.aligned, space);
  return nullptr;
}

void Workspaces::give_back(const Workspace& workspace) const noexcept {
  if (allocator_ == nullptr) {
    std::free(workspace.block);
  } else {
    allocator_->Free(allocator_, workspace.block);
  }
}

}  // namespace paro::ort
