// One call of the op, read from a folder that a test wrote.
//
// case.txt has one line for each field and for each input, in the op's order:
//   version VERSION                  of the op; 1 if there is no such line
//   field NAME TYPE VALUE            TYPE is INT32 or FLOAT32
//   tensor NAME TYPE SIZE SIZE ...   TYPE is FP16, BF16, FP32 or INT32; elements are in NAME.bin
#pragma once

#include <string>
#include <vector>

#include "../nv_infer.h"
#include "tensors.h"

namespace paro::trt::host {

// A plugin field that owns its name and value, as a parsed node or an engine does.
struct Field {
  std::string name;
  nvinfer1::PluginFieldType type;
  int32_t length;
  std::vector<std::byte> value;
};

Field integer_field(const std::string& name, int32_t value);
Field float_field(const std::string& name, float value);

// Copies the fields that a plugin asks TensorRT to store. Their types and lengths give the sizes.
std::vector<Field> copy_fields(const nvinfer1::PluginFieldCollection& fields);

// A view of `fields` in the form in which TensorRT passes them. `fields` must outlive it.
class FieldCollection {
 public:
  explicit FieldCollection(const std::vector<Field>& fields);
  const nvinfer1::PluginFieldCollection* get() const { return &collection_; }

 private:
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_;
};

struct Case {
  std::string version = "1";
  std::vector<Field> fields;
  std::vector<Tensor> inputs;

  int64_t batch() const { return inputs.front().shape.d[0]; }
};

// Throws std::runtime_error with the line that it cannot read.
Case read_case(const std::string& folder);

}  // namespace paro::trt::host
