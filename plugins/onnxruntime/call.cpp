#include "call.h"

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstdio>

#include "../common/error.h"

namespace paro::ort {
namespace {

struct Tensors {
  InputShapes shapes;
  InputAddresses addresses;
};

// Turns a status of the C ABI into one of ONNX Runtime, with the message of who returned it.
Status* of_paro(const Api& api, paro_status status, const char* message) {
  if (status == PARO_OK) return nullptr;
  const ErrorCode code = status == PARO_INVALID_ARGUMENT ? kInvalidArgument
                         : status == PARO_UNSUPPORTED    ? kNotImplemented
                                                         : kFail;
  return api.CreateStatus(code, message);
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

Status* read_inputs(const Api& api, KernelContext* context, int32_t version, Tensors& tensors) {
  size_t count = 0;
  if (Status* const status = api.KernelContext_GetInputCount(context, &count)) return status;
  const auto expected = static_cast<size_t>(input_count(version));
  if (count != expected) {
    return refuse(api, kInvalidArgument,
                  "node: expected %zu inputs with plugin_version %d, got %zu", expected, version,
                  count);
  }
  for (size_t index = 0; index < count; ++index) {
    if (Status* const status = read_input(api, context, index, tensors)) return status;
  }
  return nullptr;
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
Status* forward(const Node& node, KernelContext* context, const paro_attention& call,
                const paro_launch& launch, size_t bytes) {
  Workspace workspace;
  if (Status* const status = node.workspaces.take(context, launch.stream, bytes, workspace)) {
    return status;
  }
  const paro_status status = node.backend.forward(&call, &launch, workspace.aligned, bytes);
  Status* const result = of_paro(node.api, status, node.backend.last_error());
  // On a GPU the kernels may still run: the memory stays with their stream.
  node.workspaces.give_back(workspace);
  return result;
}

}  // namespace

Status* run_call(const Node& node, KernelContext* context) noexcept {
  const Api& api = node.api;
  Tensors tensors{};
  if (Status* const status = read_inputs(api, context, node.attributes.version, tensors)) {
    return status;
  }
  void* stream = nullptr;
  if (node.backend.uses_provider) {
    if (Status* const status = api.KernelContext_GetGPUComputeStream(context, &stream)) {
      return status;
    }
  }
  paro_attention call;
  const paro_launch launch = {.struct_size = sizeof(paro_launch),
                              .stream = stream,
                              .threads = node.threads,
                              .sm = 0,
                              .max_workspace = 0};
  paro_status status = describe_call(node.attributes, node.dtype, tensors.shapes, call);
  if (status != PARO_OK) return of_paro(api, status, last_error());
  size_t workspace = 0;
  status = node.backend.workspace_bytes(&call, &launch, &workspace);
  if (status != PARO_OK) return of_paro(api, status, node.backend.last_error());
  void* output = nullptr;
  if (Status* const error = take_output(api, context, tensors.shapes[kQuery], &output)) return error;
  point_to(tensors.addresses, output, call);
  return forward(node, context, call, launch, workspace);
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
