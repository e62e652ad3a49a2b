// Tensors in host memory, and their descriptions as TensorRT passes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "../nv_infer.h"

namespace paro::trt::host {

// Exactly as many bytes as asked for, aligned to 256, so that a sanitizer sees one byte too many.
class Buffer {
 public:
  explicit Buffer(size_t size = 0);

  std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }

  // The caller frees what it gets.
  std::byte* give_up() { return data_.release(); }

 private:
  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };
  std::unique_ptr<std::byte[], Free> data_;
  size_t size_;
};

struct Tensor {
  std::string name;
  nvinfer1::DataType type;
  nvinfer1::Dims shape;
  Buffer data;
};

size_t size_of(nvinfer1::DataType type);
int64_t volume(const nvinfer1::Dims& shape);
size_t bytes_of(nvinfer1::DataType type, const nvinfer1::Dims& shape);

// Inputs 0, 1, 2, 8, 9 of the op have the batch first; the others are the plan's.
bool has_batch(size_t input);

// `shape` with another batch.
nvinfer1::Dims with_batch(const nvinfer1::Dims& shape, int64_t batch);

// Descriptions of the inputs and the output, which is like query, at a batch.
struct Descriptions {
  std::vector<nvinfer1::PluginTensorDesc> inputs;
  std::vector<nvinfer1::PluginTensorDesc> outputs;
};
Descriptions describe(const std::vector<Tensor>& inputs, int64_t batch);

// The same for an optimization profile of batches.
struct Profile {
  int64_t min, opt, max;
};
struct ProfileDescriptions {
  std::vector<nvinfer1::DynamicPluginTensorDesc> inputs;
  std::vector<nvinfer1::DynamicPluginTensorDesc> outputs;
};
ProfileDescriptions describe(const std::vector<Tensor>& inputs, const Profile& profile);

}  // namespace paro::trt::host
