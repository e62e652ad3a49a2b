#include "execution.h"

#include <algorithm>
#include <cstdio>

namespace paro::trt::host {
namespace {

// Behind the workspace; enqueue is not told how much it was given.
constexpr size_t kGuardBytes = 1 << 20;
constexpr int32_t kExceeded = -1;

bool is_untouched(const Buffer& content, size_t from) {
  return std::all_of(content.data() + from, content.data() + content.size(),
                     [](std::byte byte) { return byte == std::byte{0xff}; });
}

}  // namespace

Execution::Execution(Memory& memory, const std::vector<Tensor>& inputs)
    : memory_(memory), tensors_(inputs) {
  for (const Tensor& tensor : inputs) buffers_.emplace_back(memory, tensor.data);
}

std::vector<const void*> Execution::inputs_from(int64_t sample) const {
  std::vector<const void*> addresses;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const Tensor& tensor = tensors_[i];
    const size_t step = tensor.data.size() / static_cast<size_t>(tensor.shape.d[0]);
    addresses.push_back(buffers_[i].data() +
                        (has_batch(i) ? static_cast<size_t>(sample) * step : 0));
  }
  return addresses;
}

Execution::Outcome Execution::run(nvinfer1::IPluginV3OneRuntime& runtime, int64_t sample,
                                  int64_t batch, size_t workspace_bytes) const {
  memory_.enter_thread();
  const Descriptions now = describe(tensors_, batch);
  const std::vector<const void*> inputs = inputs_from(sample);
  const nvinfer1::PluginTensorDesc& output = now.outputs[0];
  const DeviceBuffer workspace(memory_, poison(workspace_bytes + kGuardBytes));
  const DeviceBuffer result(memory_, poison(bytes_of(output.type, output.dims)));
  void* const outputs[] = {result.data()};
  const auto count = static_cast<int32_t>(inputs.size());
  int32_t status = runtime.onShapeChange(now.inputs.data(), count, now.outputs.data(), 1);
  if (status == 0) {
    cudaStream_t stream = memory_.create_stream();
    status = runtime.enqueue(now.inputs.data(), now.outputs.data(), inputs.data(), outputs,
                             workspace.data(), stream);
    memory_.finish(stream);
  }
  if (!is_untouched(workspace.content(), workspace_bytes)) {
    std::printf("FAILED: batch %lld takes more than its %zu bytes of workspace\n",
                static_cast<long long>(batch), workspace_bytes);
    status = kExceeded;
  }
  return {status, result.content()};
}

}  // namespace paro::trt::host
