// A case's tensors where the kernels compute, and the calls that TensorRT makes to run a layer.
#pragma once

#include <vector>

#include "case.h"
#include "memory.h"
#include "plugin_library.h"

namespace paro::trt::host {

class Execution {
 public:
  Execution(Memory& memory, const std::vector<Tensor>& inputs);

  // Addresses of the inputs from `sample` on.
  std::vector<const void*> inputs_from(int64_t sample) const;

  // Tells the plugin the sizes of `batch` samples from `sample` on, and runs it in a stream of its
  // own on poisoned memory. `result` is what it wrote. Any thread may call this.
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
