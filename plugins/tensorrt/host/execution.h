// Runs a layer as TensorRT does, on copies of a case's tensors in the memory of the kernels.
#pragma once

#include <vector>

#include "case.h"
#include "memory.h"
#include "plugin_library.h"

namespace paro::trt::host {

class Execution {
 public:
  Execution(Memory& memory, const std::vector<Tensor>& inputs);

  // Addresses of the inputs, starting at sample number `sample`.
  std::vector<const void*> inputs_from(int64_t sample) const;

  // Runs `batch` samples, starting at number `sample`: first tells the plugin their shapes, then
  // calls enqueue in a new stream. The output and the workspace are poisoned before the call.
  // `result` is what the plugin wrote. Any thread may call this.
  struct Outcome {
    int32_t status;
    Buffer result;
  };
  Outcome run(nvinfer1::IPluginV3OneRuntime& runtime, int64_t sample, int64_t batch,
              size_t workspace_bytes) const;

 private:
  Memory& memory_;
  const std::vector<Tensor>& tensors_;
  std::vector<DeviceBuffer> buffers_;
};

}  // namespace paro::trt::host
