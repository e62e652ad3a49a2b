#include "case.h"

#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>

namespace paro::trt::host {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

template <class T>
Field scalar_field(const std::string& name, PluginFieldType type, T value) {
  Field field{name, type, 1, std::vector<std::byte>(sizeof value)};
  std::memcpy(field.value.data(), &value, sizeof value);
  return field;
}

size_t size_of(PluginFieldType type) {
  switch (type) {
    case PluginFieldType::kCHAR:
      return 1;
    case PluginFieldType::kINT32:
    case PluginFieldType::kFLOAT32:
      return 4;
    default:
      throw std::runtime_error("a field of type " + std::to_string(static_cast<int>(type)));
  }
}

Field read_field(std::istream& line) {
  std::string name, type;
  line >> name >> type;
  if (type == "INT32") {
    int32_t value = 0;
    line >> value;
    return integer_field(name, value);
  }
  if (type != "FLOAT32") throw std::runtime_error("field " + name + " of type " + type);
  float value = 0;
  line >> value;
  return float_field(name, value);
}

Tensor read_tensor(std::istream& line, const std::string& folder) {
  static const std::map<std::string, DataType> types = {{"FP16", DataType::kHALF},
                                                        {"BF16", DataType::kBF16},
                                                        {"FP32", DataType::kFLOAT},
                                                        {"INT32", DataType::kINT32}};
  std::string name, type;
  line >> name >> type;
  Tensor tensor{name, types.at(type), {}, Buffer()};
  for (int64_t size; line >> size;) tensor.shape.d[tensor.shape.nbDims++] = size;
  tensor.data = Buffer(bytes_of(tensor.type, tensor.shape));
  std::ifstream file(folder + "/" + name + ".bin", std::ios::binary);
  file.read(reinterpret_cast<char*>(tensor.data.data()),
            static_cast<std::streamsize>(tensor.data.size()));
  if (!file || file.peek() != EOF) throw std::runtime_error("the size of " + name + ".bin");
  return tensor;
}

}  // namespace

Field integer_field(const std::string& name, int32_t value) {
  return scalar_field(name, PluginFieldType::kINT32, value);
}

Field float_field(const std::string& name, float value) {
  return scalar_field(name, PluginFieldType::kFLOAT32, value);
}

std::vector<Field> copy_fields(const nvinfer1::PluginFieldCollection& fields) {
  std::vector<Field> copies;
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    const PluginField& field = fields.fields[i];
    const auto* const bytes = static_cast<const std::byte*>(field.data);
    const size_t size = static_cast<size_t>(field.length) * size_of(field.type);
    copies.push_back({field.name, field.type, field.length, {bytes, bytes + size}});
  }
  return copies;
}

FieldCollection::FieldCollection(const std::vector<Field>& fields) {
  for (const Field& field : fields) {
    fields_.emplace_back(field.name.c_str(), field.value.data(), field.type, field.length);
  }
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

Case read_case(const std::string& folder) {
  std::ifstream file(folder + "/case.txt");
  if (!file) throw std::runtime_error("no case.txt in " + folder);
  Case content;
  for (std::string text; std::getline(file, text);) {
    std::istringstream line(text);
    std::string kind;
    line >> kind;
    if (kind == "version") {
      line >> content.version;
    } else if (kind == "field") {
      content.fields.push_back(read_field(line));
    } else if (kind == "tensor") {
      content.inputs.push_back(read_tensor(line, folder));
    } else {
      throw std::runtime_error("case.txt: " + text);
    }
  }
  return content;
}

}  // namespace paro::trt::host
