// Tensors in host memory, and their descriptions in the form in which TensorRT passes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "../nv_infer.h"

namespace paro::trt::host {

// A buffer of exactly the requested size, aligned to 256 bytes. A sanitizer therefore reports any
// access past its end.
class Buffer {
 public:
  explicit Buffer(size_t size = 0);

  std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }

  // Gives up ownership: the caller frees the memory.
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

// Whether the first dimension of an input is the batch. It is for inputs 0, 1, 2, 8 and 9 of the
// op; the others come from the plan and have none.
bool has_batch(size_t input);

// `shape` with its first dimension, the batch, replaced.
nvinfer1::Dims with_batch(const nvinfer1::Dims& shape, int64_t batch);

// Descriptions of the inputs and the output for one batch. The output has query's shape and type.
struct Descriptions {
  std::vector<nvinfer1::PluginTensorDesc> inputs;
  std::vector<nvinfer1::PluginTensorDesc> outputs;
};
Descriptions describe(const std::vector<Tensor>& inputs, int64_t batch);

// The same for an optimization profile, which has a smallest, usual and largest batch.
struct Profile {
  int64_t min, opt, max;
};
struct ProfileDescriptions {
  std::vector<nvinfer1::DynamicPluginTensorDesc> inputs;
  std::vector<nvinfer1::DynamicPluginTensorDesc> outputs;
};
ProfileDescriptions describe(const std::vector<Tensor>& inputs, const Profile& profile);

}  // namespace paro::trt::host
