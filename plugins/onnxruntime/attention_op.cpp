#include "attention_op.h"

#include <cstring>
#include <memory>
#include <new>

#include "call.h"

namespace paro::ort {
namespace {

const AttentionOp& self(const CustomOp* op) { return *static_cast<const AttentionOp*>(op); }

// Whether the node has the attribute, as a scalar of any type.
bool is_present(const Api& api, const KernelInfo* info, const char* name) {
  float real;
  int64_t integer;
  size_t length = 0;
  return !discard(api, api.KernelInfoGetAttribute_float(info, name, &real)) ||
         !discard(api, api.KernelInfoGetAttribute_int64(info, name, &integer)) ||
         !discard(api, api.KernelInfoGetAttribute_string(info, name, nullptr, &length));
}

// Reads a required attribute. One of another type is an error and never counts as absent.
Status* read_float(const Api& api, const KernelInfo* info, const char* name, float absent,
                   float& value) {
  if (!discard(api, api.KernelInfoGetAttribute_float(info, name, &value))) return nullptr;
  if (is_present(api, info, name)) {
    return refuse(api, kInvalidArgument, "%s: expected a FLOAT attribute, got another type", name);
  }
  value = absent;
  return nullptr;
}

Status* read_int(const Api& api, const KernelInfo* info, const char* name, const int32_t* absent,
                 int32_t& value) {
  int64_t wide = 0;
  if (!discard(api, api.KernelInfoGetAttribute_int64(info, name, &wide))) {
    value = static_cast<int32_t>(wide);
    if (value == wide) return nullptr;
    return refuse(api, kInvalidArgument, "%s: expected a small integer, got %lld", name,
                  static_cast<long long>(wide));
  }
  if (absent == nullptr || is_present(api, info, name)) {
    return refuse(api, kInvalidArgument, "%s: expected an INT attribute, got none", name);
  }
  value = *absent;
  return nullptr;
}

// Reads the version of the op, which ONNX Runtime does not tell a kernel.
Status* read_version(const Api& api, const KernelInfo* info, int32_t& version) {
  constexpr const char* kName = "plugin_version";
  if (!is_present(api, info, kName)) return nullptr;
  char text[8] = {};
  size_t size = sizeof text;
  const bool unreadable = discard(api, api.KernelInfoGetAttribute_string(info, kName, text, &size));
  const char* const given = unreadable ? "another value" : text;
  if (std::strcmp(given, "1") == 0 || std::strcmp(given, "2") == 0) {
    version = given[0] == '1' ? kVersion1 : kVersion2;
    return nullptr;
  }
  return refuse(api, kInvalidArgument, "%s: expected the text 1 or 2, got %s", kName, given);
}

Status* read_attributes(const Api& api, const KernelInfo* info, Attributes& attributes) {
  constexpr int32_t kAbsent = 0;
  Status* status = read_version(api, info, attributes.version);
  if (status == nullptr) status = read_float(api, info, "scale", 0.0f, attributes.scale);
  const auto next = [&](const char* name, const int32_t* absent, int32_t& value) {
    if (status == nullptr) status = read_int(api, info, name, absent, value);
  };
  next("block_q", nullptr, attributes.block_q);
  next("block_k", nullptr, attributes.block_k);
  next("qk_bits", nullptr, attributes.qk_bits);
  next("pv_bits", nullptr, attributes.pv_bits);
  next("pool_dropped", &kAbsent, attributes.pool_dropped);
  next("fine_summaries", &kAbsent, attributes.fine_summaries);
  next("mean_correction", &kAbsent, attributes.mean_correction);
  next("routing", &kAbsent, attributes.routing);
  next("smoothing", &kAbsent, attributes.smoothing);
  const bool used = attributes.fine_summaries || attributes.mean_correction || attributes.routing ||
                    attributes.smoothing;
  if (status == nullptr && used && attributes.version == kVersion1) {
    return refuse(api, kInvalidArgument,
                  "fine_summaries, mean_correction, routing, smoothing: expected 0 with "
                  "plugin_version 1, got %d, %d, %d, %d",
                  attributes.fine_summaries, attributes.mean_correction, attributes.routing,
                  attributes.smoothing);
  }
  return status;
}

Status* create_kernel(const CustomOp* op, const Api* api, const KernelInfo* info,
                      void** kernel) noexcept {
  Attributes attributes;
  if (Status* const status = read_attributes(*api, info, attributes)) return status;
  const AttentionOp& own = self(op);
  std::unique_ptr<Node> node(new (std::nothrow) Node{.api = *api,
                                                     .backend = own.backend,
                                                     .attributes = attributes,
                                                     .dtype = own.dtype,
                                                     .threads = own.threads,
                                                     .workspaces = {}});
  if (node == nullptr) return refuse(*api, kFail, "memory: expected room for a node, got none");
  if (Status* const status = node->workspaces.open(*api, own.backend, info)) return status;
  *kernel = node.release();
  return nullptr;
}

Status* compute(void* kernel, KernelContext* context) noexcept {
  return run_call(*static_cast<const Node*>(kernel), context);
}

ElementType input_type(const CustomOp* op, size_t index) {
  if (index <= kValue) return self(op).element;
  return index == kChannelAffine ? kFloat : kInt32;
}

Status* infer_output(const CustomOp* op, ShapeContext* context) {
  const Api& api = self(op).api;
  TensorInfo* query = nullptr;  // owned by the context
  if (Status* const status = api.ShapeInferContext_GetInputTypeShape(context, 0, &query)) {
    return status;
  }
  return api.ShapeInferContext_SetOutputTypeShape(context, 0, query);
}

}  // namespace

AttentionOp::AttentionOp(const Api& runtime, const Backend& computes, ElementType element_type,
                         paro_dtype same_dtype, int32_t thread_count) noexcept
    : CustomOp{},
      api(runtime),
      backend(computes),
      element(element_type),
      dtype(same_dtype),
      threads(thread_count) {
  version = kApiVersion;
  GetName = [](const CustomOp*) { return "PAROAttention"; };
  GetExecutionProviderType = [](const CustomOp* op) { return self(op).backend.provider; };
  GetInputType = input_type;
  GetInputTypeCount = [](const CustomOp*) { return size_t{kMaxInputs}; };
  GetOutputType = [](const CustomOp* op, size_t) { return self(op).element; };
  GetOutputTypeCount = [](const CustomOp*) { return size_t{1}; };
  // One op serves both versions: ONNX Runtime makes one schema of all ops of a name.
  GetInputCharacteristic = [](const CustomOp*, size_t index) {
    return index < size_t{kFineMask} ? kRequired : kOptional;
  };
  GetOutputCharacteristic = [](const CustomOp*, size_t) { return kRequired; };
  GetInputMemoryType = [](const CustomOp*, size_t) { return kDefaultMemory; };
  GetVariadicInputMinArity = [](const CustomOp*) { return 0; };
  GetVariadicInputHomogeneity = [](const CustomOp*) { return 0; };
  GetVariadicOutputMinArity = [](const CustomOp*) { return 0; };
  GetVariadicOutputHomogeneity = [](const CustomOp*) { return 0; };
  CreateKernelV2 = create_kernel;
  KernelComputeV2 = compute;
  KernelDestroy = [](void* kernel) { delete static_cast<Node*>(kernel); };
  InferOutputShapeFn = infer_output;
  GetStartVersion = [](const CustomOp*) { return int{kVersion1}; };
  GetEndVersion = [](const CustomOp*) { return int{kVersion2}; };
}

}  // namespace paro::ort
