#include "tensors.h"

#include <algorithm>
#include <stdexcept>

namespace paro::trt::host {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

Buffer::Buffer(size_t size) : size_(size) {
  void* data = nullptr;
  if (posix_memalign(&data, 256, std::max<size_t>(size, 1)) != 0) throw std::bad_alloc();
  data_.reset(static_cast<std::byte*>(data));
}

size_t size_of(DataType type) {
  switch (type) {
    case DataType::kHALF:
    case DataType::kBF16:
      return 2;
    case DataType::kFLOAT:
    case DataType::kINT32:
      return 4;
    default:
      throw std::invalid_argument("expected FP16, BF16, FP32 or INT32");
  }
}

int64_t volume(const Dims& shape) {
  int64_t product = 1;
  for (int32_t i = 0; i < shape.nbDims; ++i) product *= shape.d[i];
  return product;
}

size_t bytes_of(DataType type, const Dims& shape) {
  return static_cast<size_t>(volume(shape)) * size_of(type);
}

bool has_batch(size_t input) { return input <= 2 || input == 8 || input == 9; }

Dims with_batch(const Dims& shape, int64_t batch) {
  Dims changed = shape;
  changed.d[0] = batch;
  return changed;
}

Descriptions describe(const std::vector<Tensor>& inputs, int64_t batch) {
  Descriptions all;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Dims& shape = inputs[i].shape;
    all.inputs.push_back({has_batch(i) ? with_batch(shape, batch) : shape, inputs[i].type,
                          nvinfer1::TensorFormat::kLINEAR, 1.0f});
  }
  all.outputs = {all.inputs.front()};
  return all;
}

ProfileDescriptions describe(const std::vector<Tensor>& inputs, const Profile& profile) {
  const Descriptions min = describe(inputs, profile.min);
  const Descriptions opt = describe(inputs, profile.opt);
  const Descriptions max = describe(inputs, profile.max);
  // The network is defined with a wildcard for the batch.
  const Descriptions network = describe(inputs, -1);
  ProfileDescriptions all;
  for (size_t i = 0; i < inputs.size(); ++i) {
    all.inputs.push_back(
        {network.inputs[i], min.inputs[i].dims, max.inputs[i].dims, opt.inputs[i].dims});
  }
  all.outputs = {all.inputs.front()};
  return all;
}

}  // namespace paro::trt::host
