#include "plugin.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>

#include "../common/status.h"
#include "build_id.h"
#include "log.h"
#include "tensors.h"

namespace paro::trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

// TensorRT says which device and stream.
paro_launch launch_in(cudaStream_t stream, const PluginAttributes& attributes) {
  return {.struct_size = sizeof(paro_launch),
          .stream = stream,
          .threads = 0,
          .sm = 0,
          .max_workspace = static_cast<size_t>(attributes.max_workspace_mib) << 20};
}

// The workspace has the same size on every GPU and is asked of the oldest one, so that engines are
// built where there is no GPU.
constexpr int32_t kAnySm = 80;

paro_status workspace_on_any_gpu(const paro_attention& call, const PluginAttributes& attributes,
                                 size_t& bytes) {
  paro_launch launch = launch_in(nullptr, attributes);
  launch.sm = kAnySm;
  return paro_workspace_bytes(&call, &launch, &bytes);
}

// Where a builder has a GPU, what its kernels cannot run is refused before the engine exists,
// rather than at the first enqueue.
paro_status check_on_this_gpu(const paro_attention& call, const PluginAttributes& attributes) {
  const paro_launch launch = launch_in(nullptr, attributes);
  size_t bytes = 0;
  const paro_status status = paro_workspace_bytes(&call, &launch, &bytes);
  return status == PARO_NO_DEVICE ? PARO_OK : status;
}

constexpr int64_t kUnknownSize = -1;

// The op's inputs with one set of sizes.
struct Inputs {
  explicit Inputs(int32_t version) : count(static_cast<size_t>(input_count(version))) {}

  // With the sizes that the tensors have now.
  static Inputs now(int32_t version, const PluginTensorDesc* tensors) {
    Inputs inputs(version);
    for (size_t i = 0; i < inputs.count; ++i) inputs.set(i, tensors[i], tensors[i].dims);
    return inputs;
  }

  // With the sizes at one end of an optimization profile. If the network computes a batch, TensorRT
  // knows only bounds of it, which can be wide. Such a batch is assumed to equal query's.
  static Inputs at(int32_t version, Dims DynamicPluginTensorDesc::* bound,
                   const DynamicPluginTensorDesc* tensors) {
    Inputs inputs(version);
    for (size_t i = 0; i < inputs.count; ++i) {
      inputs.set(i, tensors[i].desc, tensors[i].*bound);
      const bool unknown = tensors[i].desc.dims.d[0] == kUnknownSize;
      if (unknown) inputs.shapes[i].d[0] = (tensors[0].*bound).d[0];
    }
    return inputs;
  }

  void set(size_t index, const PluginTensorDesc& tensor, const Dims& shape) {
    types[index] = tensor.type;
    formats[index] = tensor.format;
    shapes[index] = shape;
  }

  size_t count;
  std::array<DataType, kMaxInputs> types{};
  std::array<TensorFormat, kMaxInputs> formats{};
  std::array<Dims, kMaxInputs> shapes{};
};

paro_status describe(const Attributes& attributes, const Inputs& inputs, paro_attention& call) {
  for (size_t i = 0; i < inputs.count; ++i) {
    if (inputs.formats[i] == TensorFormat::kLINEAR) continue;
    return refuse(PARO_INVALID_ARGUMENT, "%s: expected the linear format, got format %d",
                  kInputs[i].name, static_cast<int>(inputs.formats[i]));
  }
  PARO_RETURN_IF_ERROR(check_types(attributes.version, inputs.types.data()));
  InputShapes shapes;
  std::transform(inputs.shapes.begin(), inputs.shapes.end(), shapes.begin(), shape_of);
  const paro_status status =
      describe_call(attributes, dtype_of(inputs.types[kQuery]), shapes, call);
  return status == PARO_OK ? status : refuse(status, "%s", paro_last_error());
}

paro_status check_present(const void* inputs, const void* outputs) {
  if (inputs != nullptr && outputs != nullptr) return PARO_OK;
  return refuse(PARO_INVALID_ARGUMENT, "tensors: expected their descriptions, got NULL");
}

// The shapes of the smallest call with this head size.
InputShapes one_token(int64_t head_dim) {
  InputShapes shapes;
  for (size_t i = 0; i < kMaxInputs; ++i) {
    shapes[i].rank = kInputs[i].rank;
    shapes[i].sizes.fill(1);
  }
  for (const Input input : {kQuery, kKey, kValue}) shapes[input].sizes[3] = head_dim;
  shapes[kChannelAffine].sizes = {PARO_AFFINE_ROWS, 1, head_dim};
  shapes[kRotation].sizes = {1, head_dim};
  return shapes;
}

// Loads the kernels of every type and head size, since neither is known before the first shapes;
// what this GPU cannot run is refused when the shapes ask for it.
paro_status prepare_all_kernels(const PluginAttributes& attributes) {
  const paro_launch launch = launch_in(nullptr, PluginAttributes{});
  for (const paro_dtype dtype : {PARO_FLOAT16, PARO_BFLOAT16}) {
    for (const int32_t head_dim : {64, 128}) {
      paro_attention call;
      PARO_RETURN_IF_ERROR(describe_call(attributes, dtype, one_token(head_dim), call));
      const paro_status status = paro_prepare(&call, &launch);
      if (status != PARO_OK && status != PARO_UNSUPPORTED) return status;
    }
  }
  return PARO_OK;
}

}  // namespace

AttentionPlugin::AttentionPlugin(const PluginAttributes& attributes) noexcept
    : attributes_(attributes) {
  // %a gives every bit of the scale.
  std::snprintf(identity_.data(), identity_.size(),
                "scale=%a block_q=%d block_k=%d qk_bits=%d pv_bits=%d pool_dropped=%d "
                "max_workspace_mib=%d kernels=%s/%u/%s",
                static_cast<double>(attributes.scale), attributes.block_q, attributes.block_k,
                attributes.qk_bits, attributes.pv_bits, attributes.pool_dropped,
                attributes.max_workspace_mib, paro_library_name(), paro_abi_version(), build_id());
  if (attributes.version == kVersion1) return;
  const size_t used = std::strlen(identity_.data());
  std::snprintf(identity_.data() + used, identity_.size() - used,
                " fine_summaries=%d mean_correction=%d routing=%d smoothing=%d",
                attributes.fine_summaries, attributes.mean_correction, attributes.routing,
                attributes.smoothing);
}

nvinfer1::IPluginCapability* AttentionPlugin::getCapabilityInterface(
    nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  refuse(PARO_INVALID_ARGUMENT, "capability: expected core, build or runtime, got %d",
         static_cast<int>(type));
  return nullptr;
}

nvinfer1::IPluginV3* AttentionPlugin::clone() noexcept {
  auto* const copy = new (std::nothrow) AttentionPlugin(attributes_);
  if (copy == nullptr) refuse(PARO_RUNTIME_ERROR, "memory: expected room for a clone, got none");
  return copy;
}

int32_t AttentionPlugin::getNbOutputs() const noexcept { return kOutputCount; }

int32_t AttentionPlugin::getOutputDataTypes(DataType* outputTypes, int32_t nbOutputs,
                                            const DataType* inputTypes,
                                            int32_t nbInputs) const noexcept {
  PARO_RETURN_IF_ERROR(check_present(inputTypes, outputTypes));
  PARO_RETURN_IF_ERROR(check_counts(attributes_.version, nbInputs, nbOutputs));
  PARO_RETURN_IF_ERROR(check_types(attributes_.version, inputTypes));
  outputTypes[0] = inputTypes[0];
  return PARO_OK;
}

int32_t AttentionPlugin::getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t nbInputs,
                                         const nvinfer1::DimsExprs*, int32_t,
                                         nvinfer1::DimsExprs* outputs, int32_t nbOutputs,
                                         nvinfer1::IExprBuilder&) noexcept {
  PARO_RETURN_IF_ERROR(check_present(inputs, outputs));
  PARO_RETURN_IF_ERROR(check_counts(attributes_.version, nbInputs, nbOutputs));
  if (inputs[0].nbDims != 4) {
    return refuse(PARO_INVALID_ARGUMENT, "query: expected 4 dimensions, got %d", inputs[0].nbDims);
  }
  outputs[0] = inputs[0];
  return PARO_OK;
}

bool AttentionPlugin::supportsFormatCombination(int32_t pos, const DynamicPluginTensorDesc* inOut,
                                                int32_t nbInputs, int32_t nbOutputs) noexcept {
  if (check_present(inOut, inOut) != PARO_OK || check_counts(attributes_.version, nbInputs, nbOutputs) != PARO_OK) {
    return false;
  }
  if (pos < 0 || pos >= nbInputs + kOutputCount) return false;
  const PluginTensorDesc& tensor = inOut[pos].desc;
  if (tensor.format != TensorFormat::kLINEAR) return false;
  const DataType query = inOut[0].desc.type;
  if (pos == 0) return is_query_type(query);
  return tensor.type == (pos < nbInputs ? input_type(pos, query) : query);
}

int32_t AttentionPlugin::configurePlugin(const DynamicPluginTensorDesc* in, int32_t nbInputs,
                                         const DynamicPluginTensorDesc* out,
                                         int32_t nbOutputs) noexcept {
  PARO_RETURN_IF_ERROR(check_present(in, out));
  PARO_RETURN_IF_ERROR(check_counts(attributes_.version, nbInputs, nbOutputs));
  for (Dims DynamicPluginTensorDesc::* const bound :
       {&DynamicPluginTensorDesc::min, &DynamicPluginTensorDesc::opt,
        &DynamicPluginTensorDesc::max}) {
    paro_attention call;
    PARO_RETURN_IF_ERROR(describe(attributes_, Inputs::at(attributes_.version, bound, in), call));
    if (call.batch == 0) continue;
    size_t bytes = 0;
    paro_status status = workspace_on_any_gpu(call, attributes_, bytes);
    if (status == PARO_OK) status = check_on_this_gpu(call, attributes_);
    if (status != PARO_OK) return refuse_as_kernels_did(status, "configure");
  }
  return PARO_OK;
}

size_t AttentionPlugin::getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t nbInputs,
                                         const DynamicPluginTensorDesc* outputs,
                                         int32_t nbOutputs) const noexcept {
  // The interface can report no error here, so misuse also returns 0. enqueue then refuses the
  // call.
  if (check_present(inputs, outputs) || check_counts(attributes_.version, nbInputs, nbOutputs)) return 0;
  paro_attention call;
  const Inputs largest = Inputs::at(attributes_.version, &DynamicPluginTensorDesc::max, inputs);
  if (describe(attributes_, largest, call)) return 0;
  if (call.batch == 0) return 0;
  // Under a limit a smaller batch may need more than the largest, whose groups of heads happen to
  // be small: never more than the limit, nor than all heads of the largest.
  size_t bytes = 0, all_heads = 0;
  paro_status status = workspace_on_any_gpu(call, attributes_, bytes);
  if (status == PARO_OK) status = workspace_on_any_gpu(call, PluginAttributes{}, all_heads);
  if (status != PARO_OK) {
    refuse_as_kernels_did(status, "workspace");
    return 0;
  }
  const size_t limit = launch_in(nullptr, attributes_).max_workspace;
  return limit == 0 ? all_heads : std::min(limit, all_heads);
}

int32_t AttentionPlugin::setTactic(int32_t tactic) noexcept {
  if (tactic == 0) return PARO_OK;
  return refuse(PARO_INVALID_ARGUMENT, "tactic: expected 0, the only one, got %d", tactic);
}

int32_t AttentionPlugin::onShapeChange(const PluginTensorDesc* in, int32_t nbInputs,
                                       const PluginTensorDesc* out, int32_t nbOutputs) noexcept {
  PARO_RETURN_IF_ERROR(check_present(in, out));
  PARO_RETURN_IF_ERROR(check_counts(attributes_.version, nbInputs, nbOutputs));
  paro_attention call;
  PARO_RETURN_IF_ERROR(describe(attributes_, Inputs::now(attributes_.version, in), call));
  if (call.batch == 0) return PARO_OK;
  const paro_launch launch = launch_in(nullptr, attributes_);
  const paro_status status = paro_prepare(&call, &launch);
  return status == PARO_OK ? status : refuse_as_kernels_did(status, "shape change");
}

int32_t AttentionPlugin::enqueue(const PluginTensorDesc* inputDesc,
                                 const PluginTensorDesc* outputDesc, const void* const* inputs,
                                 void* const* outputs, void* workspace,
                                 cudaStream_t stream) noexcept {
  PARO_RETURN_IF_ERROR(check_present(inputDesc, outputDesc));
  paro_attention call;
  PARO_RETURN_IF_ERROR(describe(attributes_, Inputs::now(attributes_.version, inputDesc), call));
  // An empty batch needs no work, and its pointers may be null.
  if (call.batch == 0) return PARO_OK;
  PARO_RETURN_IF_ERROR(check_present(inputs, outputs));
  InputAddresses addresses{};
  std::copy_n(inputs, input_count(attributes_.version), addresses.begin());
  point_to(addresses, outputs[0], call);
  const paro_launch launch = launch_in(stream, attributes_);
  size_t bytes = 0;
  paro_status status = paro_workspace_bytes(&call, &launch, &bytes);
  if (status == PARO_OK) status = paro_forward(&call, &launch, workspace, bytes);
  return status == PARO_OK ? status : refuse_as_kernels_did(status, "enqueue");
}

nvinfer1::IPluginV3* AttentionPlugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept {
  if (const paro_status status = prepare_all_kernels(attributes_)) {
    refuse_as_kernels_did(status, "attach to context");
    return nullptr;
  }
  return clone();
}

const nvinfer1::PluginFieldCollection* AttentionPlugin::getFieldsToSerialize() noexcept {
  stored_ = stored_fields(attributes_);
  stored_collection_ = {stored_.count, stored_.fields.data()};
  return &stored_collection_;
}

}  // namespace paro::trt
