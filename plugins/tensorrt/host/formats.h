// Finds the types and formats that a plugin accepts, tensor by tensor, as TensorRT does.
#pragma once

#include <vector>

#include "../nv_infer.h"

namespace paro::trt::host {

struct TensorKind {
  nvinfer1::DataType type;
  nvinfer1::TensorFormat format;
};

// The combinations that the plugin supports for this number of inputs and outputs, out of all types
// and formats. The list is no longer than the plugin's own limit. While the search runs, tensors
// that are still undecided hold values that no real tensor has.
std::vector<std::vector<TensorKind>> supported_combinations(nvinfer1::IPluginV3OneBuild& build,
                                                            int32_t inputs, int32_t outputs);

}  // namespace paro::trt::host
