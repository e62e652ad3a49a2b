// Types and formats that a plugin takes, found as TensorRT does: tensor by tensor.
#pragma once

#include <vector>

#include "../nv_infer.h"

namespace paro::trt::host {

struct TensorKind {
  nvinfer1::DataType type;
  nvinfer1::TensorFormat format;
};

// Supported combinations over `inputs` inputs and `outputs` outputs, out of all types and formats,
// up to the plugin's own limit. Tensors that are not yet decided hold values that no tensor can
// have.
std::vector<std::vector<TensorKind>> supported_combinations(nvinfer1::IPluginV3OneBuild& build,
                                                            int32_t inputs, int32_t outputs);

}  // namespace paro::trt::host
