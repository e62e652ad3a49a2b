#include "call.h"

#include <array>
#include <cstdarg>
#include <cstdio>
#include <memory>
#include <new>

namespace paro::ort {
namespace {

constexpr size_t kMaxRank = 4;
constexpr std::align_val_t kWorkspaceAlignment{256};

struct Tensor {
  size_t rank;
  std::array<int64_t, kMaxRank> sizes;
  void* data;
};

struct Formal {
  const char* name;
  size_t rank;
};

// The order of the op's inputs.
enum Index : size_t {
  kQuery,
  kKey,
  kValue,
  kTokenOrder,
  kHeadOrder,
  kBlockMask,
  kTileOrder,
  kChannelAffine,
  kMaskBin,
  kKeyLength
};

constexpr std::array<Formal, kInputs> kFormals = {{{"query", 4},
                                                   {"key", 4},
                                                   {"value", 4},
                                                   {"token_order", 2},
                                                   {"head_order", 1},
                                                   {"block_mask", 4},
                                                   {"tile_order", 2},
                                                   {"channel_affine", 3},
                                                   {"mask_bin", 1},
                                                   {"key_length", 1}}};

using Tensors = std::array<Tensor, kInputs>;

// What the C ABI answered, in ONNX Runtime's terms.
Status* of_paro(const Api& api, paro_status status) {
  if (status == PARO_OK) return nullptr;
  const ErrorCode code = status == PARO_INVALID_ARGUMENT ? kInvalidArgument
                         : status == PARO_UNSUPPORTED    ? kNotImplemented
                                                         : kFail;
  return api.CreateStatus(code, paro_last_error());
}

Status* read_sizes(const Api& api, const TensorInfo* info, const Formal& formal, Tensor& tensor) {
  if (Status* const status = api.GetDimensionsCount(info, &tensor.rank)) return status;
  if (tensor.rank != formal.rank) {
    return refuse(api, kInvalidArgument, "%s: expected %zu dimensions, got %zu", formal.name,
                  formal.rank, tensor.rank);
  }
  if (Status* const status = api.GetDimensions(info, tensor.sizes.data(), tensor.rank)) {
    return status;
  }
  for (size_t axis = 0; axis < tensor.rank; ++axis) {
    if (tensor.sizes[axis] >= 0 && tensor.sizes[axis] <= INT32_MAX) continue;
    return refuse(api, kInvalidArgument, "%s: expected sizes below 2^31, got %lld", formal.name,
                  static_cast<long long>(tensor.sizes[axis]));
  }
  return nullptr;
}

Status* read_input(const Api& api, KernelContext* context, size_t index, Tensor& tensor) {
  const Formal& formal = kFormals[index];
  const Value* value = nullptr;
  if (Status* const status = api.KernelContext_GetInput(context, index, &value)) return status;
  if (value == nullptr) {
    return refuse(api, kInvalidArgument, "%s: expected a tensor, got none", formal.name);
  }
  TensorInfo* info = nullptr;
  if (Status* const status = api.GetTensorTypeAndShape(value, &info)) return status;
  Status* const status = read_sizes(api, info, formal, tensor);
  api.ReleaseTensorTypeAndShapeInfo(info);
  if (status != nullptr) return status;
  // The interface has one accessor for reading and writing; inputs are only read.
  return api.GetTensorMutableData(const_cast<Value*>(value), &tensor.data);
}

// Sizes as query, key, token_order and block_mask give them; the others are held to these.
void take_sizes(const Tensors& tensors, paro_attention& call) {
  const auto size = [&](Index index, size_t axis) {
    return static_cast<int32_t>(tensors[index].sizes[axis]);
  };
  call.batch = size(kQuery, 0);
  call.tokens = size(kQuery, 1);
  call.heads = size(kQuery, 2);
  call.head_dim = size(kQuery, 3);
  call.kv_heads = size(kKey, 2);
  call.orders = size(kTokenOrder, 0);
  call.bins = size(kBlockMask, 0);
}

Status* check_sizes(const Api& api, const Tensors& tensors, const paro_attention& call) {
  const int64_t query_blocks = (int64_t{call.tokens} + call.block_q - 1) / call.block_q;
  const int64_t key_blocks = (int64_t{call.tokens} + call.block_k - 1) / call.block_k;
  using Sizes = std::array<int64_t, kMaxRank>;
  const Sizes query = {call.batch, call.tokens, call.heads, call.head_dim};
  const Sizes key = {call.batch, call.tokens, call.kv_heads, call.head_dim};
  const std::array<Sizes, kInputs> expected = {
      {query,
       key,
       key,
       {call.orders, call.tokens},
       {call.heads},
       {call.bins, call.heads, query_blocks, (key_blocks + 31) / 32},
       {call.bins, call.heads * query_blocks},
       {4, call.kv_heads, call.head_dim},
       {call.batch},
       {call.batch}}};
  for (size_t index = 0; index < kInputs; ++index) {
    for (size_t axis = 0; axis < kFormals[index].rank; ++axis) {
      if (tensors[index].sizes[axis] == expected[index][axis]) continue;
      return refuse(api, kInvalidArgument, "%s: expected size %lld of dimension %zu, got %lld",
                    kFormals[index].name, static_cast<long long>(expected[index][axis]), axis,
                    static_cast<long long>(tensors[index].sizes[axis]));
    }
  }
  return nullptr;
}

void take_pointers(const Tensors& tensors, paro_attention& call) {
  const auto integers = [&](Index index) { return static_cast<int32_t*>(tensors[index].data); };
  call.query = tensors[kQuery].data;
  call.key = tensors[kKey].data;
  call.value = tensors[kValue].data;
  call.token_order = integers(kTokenOrder);
  call.head_order = integers(kHeadOrder);
  call.block_mask = integers(kBlockMask);
  call.tile_order = integers(kTileOrder);
  call.channel_affine = static_cast<float*>(tensors[kChannelAffine].data);
  call.mask_bin = integers(kMaskBin);
  call.key_length = integers(kKeyLength);
}

Status* take_output(const Api& api, KernelContext* context, const Tensor& query,
                    paro_attention& call) {
  Value* output = nullptr;
  if (Status* const status =
          api.KernelContext_GetOutput(context, 0, query.sizes.data(), query.rank, &output)) {
    return status;
  }
  return api.GetTensorMutableData(output, &call.output);
}

// A workspace of the call's own: calls of one session may run at the same time.
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

Status* run_call(const Api& api, KernelContext* context, const paro_attention& attributes,
                 int32_t threads) noexcept {
  Tensors tensors{};
  for (size_t index = 0; index < kInputs; ++index) {
    if (Status* const status = read_input(api, context, index, tensors[index])) return status;
  }
  paro_attention call = attributes;
  paro_launch launch{};
  launch.struct_size = sizeof launch;
  launch.threads = threads;
  take_sizes(tensors, call);
  // First, since it also checks what the sizes of the other tensors are computed from.
  size_t workspace = 0;
  if (Status* const status = of_paro(api, paro_workspace_bytes(&call, &launch, &workspace))) {
    return status;
  }
  if (Status* const status = check_sizes(api, tensors, call)) return status;
  take_pointers(tensors, call);
  if (Status* const status = take_output(api, context, tensors[kQuery], call)) return status;
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
