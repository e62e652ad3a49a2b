#include "call.h"

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdio>
#include <memory>
#include <new>

namespace paro::ort {
namespace {

constexpr std::align_val_t kWorkspaceAlignment{256};

struct Tensors {
  InputShapes shapes;
  std::array<const void*, kInputCount> addresses;
};

// Turns a status of the C ABI into one of ONNX Runtime.
Status* of_paro(const Api& api, paro_status status) {
  if (status == PARO_OK) return nullptr;
  const ErrorCode code = status == PARO_INVALID_ARGUMENT ? kInvalidArgument
                         : status == PARO_UNSUPPORTED    ? kNotImplemented
                                                         : kFail;
  return api.CreateStatus(code, paro_last_error());
}

// Stores a wrong rank unchanged, because describe_call refuses it.
Status* read_shape(const Api& api, const TensorInfo* info, TensorShape& shape) {
  size_t rank = 0;
  if (Status* const status = api.GetDimensionsCount(info, &rank)) return status;
  shape = {.rank = static_cast<int32_t>(rank), .sizes = {}};
  return api.GetDimensions(info, shape.sizes.data(), std::min(rank, shape.sizes.size()));
}

Status* read_input(const Api& api, KernelContext* context, size_t index, Tensors& tensors) {
  const Value* value = nullptr;
  if (Status* const status = api.KernelContext_GetInput(context, index, &value)) return status;
  if (value == nullptr) {
    return refuse(api, kInvalidArgument, "%s: expected a tensor, got none", kInputs[index].name);
  }
  TensorInfo* info = nullptr;
  if (Status* const status = api.GetTensorTypeAndShape(value, &info)) return status;
  Status* status = read_shape(api, info, tensors.shapes[index]);
  api.ReleaseTensorTypeAndShapeInfo(info);
  if (status != nullptr) return status;
  // ONNX Runtime has one accessor for reading and writing. Inputs are only read.
  void* data = nullptr;
  status = api.GetTensorMutableData(const_cast<Value*>(value), &data);
  tensors.addresses[index] = data;
  return status;
}

Status* take_output(const Api& api, KernelContext* context, const TensorShape& query,
                    void** data) {
  Value* output = nullptr;
  if (Status* const status =
          api.KernelContext_GetOutput(context, 0, query.sizes.data(),
                                      static_cast<size_t>(query.rank), &output)) {
    return status;
  }
  return api.GetTensorMutableData(output, data);
}

// Each call has its own workspace, because calls of one session may run at the same time.
Status* forward(const Api& api, const paro_attention& call, const paro_launch& launch,
                size_t bytes) {
  const auto release = [](void* memory) { ::operator delete(memory, kWorkspaceAlignment); };
  const std::unique_ptr<void, decltype(release)> workspace(
      ::operator new(bytes, kWorkspaceAlignment, std::nothrow), release);
  if (workspace == nullptr) {
    return refuse(api, kFail, "memory: expected %zu bytes of workspace, got none", bytes);
  }
  return of_paro(api, paro_forward(&call, &launch, workspace.get(), bytes));
}

}  // namespace

Status* run_call(const Api& api, KernelContext* context, const Attributes& attributes,
                 paro_dtype dtype, int32_t threads) noexcept {
  Tensors tensors{};
  for (size_t index = 0; index < kInputCount; ++index) {
    if (Status* const status = read_input(api, context, index, tensors)) return status;
  }
  paro_attention call;
  const paro_launch launch = {.struct_size = sizeof(paro_launch),
                              .stream = nullptr,
                              .threads = threads,
                              .sm = 0,
                              .max_workspace = 0};
  size_t workspace = 0;
  paro_status status = describe_call(attributes, dtype, tensors.shapes, call);
  if (status == PARO_OK) status = paro_workspace_bytes(&call, &launch, &workspace);
  if (status != PARO_OK) return of_paro(api, status);
  void* output = nullptr;
  if (Status* const error = take_output(api, context, tensors.shapes[kQuery], &output)) return error;
  point_to(tensors.addresses, output, call);
  return forward(api, call, launch, workspace);
}

bool discard(const Api& api, Status* status) noexcept {
  if (status == nullptr) return false;
  api.ReleaseStatus(status);
  return true;
}

Status* refuse(const Api& api, ErrorCode code, const char* format, ...) noexcept {
  char message[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return api.CreateStatus(code, message);
}

}  // namespace paro::ort
