// NumPy's .npy files, format 1.0, C order (numpy.lib.format in NumPy's reference).
#pragma once

#include <cstdint>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace npy {

struct Array {
  std::string type;  // NumPy's, such as "<f2"
  std::vector<int64_t> shape;
  std::vector<char> data;
};

inline std::string value_of(const std::string& header, const std::string& key) {
  const size_t at = header.find("'" + key + "':");
  if (at == std::string::npos) throw std::runtime_error("no " + key + " in the .npy header");
  return header.substr(at + key.size() + 3);
}

inline Array read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  char start[10] = {};
  if (!file.read(start, sizeof start) || std::string(start, 7) != "\x93NUMPY\x01") {
    throw std::runtime_error(path + ": expected a .npy file of format 1.0");
  }
  std::string header(size_t(uint8_t(start[8])) + 256 * size_t(uint8_t(start[9])), ' ');
  file.read(header.data(), std::streamsize(header.size()));
  if (value_of(header, "fortran_order").find("True") < 3) {
    throw std::runtime_error(path + ": expected C order; save numpy.ascontiguousarray(array)");
  }
  Array array;
  const std::string type = value_of(header, "descr"), shape = value_of(header, "shape");
  const size_t quote = type.find('\'');
  array.type = type.substr(quote + 1, type.find('\'', quote + 1) - quote - 1);
  std::stringstream sizes(shape.substr(shape.find('(') + 1, shape.find(')') - shape.find('(') - 1));
  for (std::string size; std::getline(sizes, size, ',');) {
    if (size.find_first_of("0123456789") != std::string::npos) array.shape.push_back(stoll(size));
  }
  array.data.assign(std::istreambuf_iterator<char>(file), {});
  return array;
}

inline void write(const std::string& path, const Array& array) {
  std::string header = "{'descr': '" + array.type + "', 'fortran_order': False, 'shape': (";
  for (const int64_t size : array.shape) header += std::to_string(size) + ", ";
  header += "), }";
  header.resize((10 + header.size() + 64) / 64 * 64 - 10, ' ');
  header.back() = '\n';
  std::ofstream file(path, std::ios::binary);
  const char length[] = {char(header.size() % 256), char(header.size() / 256)};
  file.write("\x93NUMPY\x01\x00", 8).write(length, 2);
  file.write(header.data(), std::streamsize(header.size()));
  file.write(array.data.data(), std::streamsize(array.data.size()));
  file.close();
  if (!file) throw std::runtime_error(path + ": cannot be written");
}

}  // namespace npy
