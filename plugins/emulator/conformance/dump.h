// The file that both programs write. Each section is a text line "name kind count tolerance" and
// then count 32-bit little-endian values. kind is u32 (equal bit for bit) or f32 (relative
// tolerance).
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace conformance {

class Dump {
 public:
  explicit Dump(const char* path) : file_(std::fopen(path, "wb")) {}
  ~Dump() { close(); }
  Dump(const Dump&) = delete;
  Dump& operator=(const Dump&) = delete;

  template <class T>
  void section(const std::string& name, const std::vector<T>& values, double tolerance = 0) {
    static_assert(sizeof(T) == 4);
    if (file_ == nullptr) return;
    const char* kind = tolerance > 0 ? "f32" : "u32";
    std::fprintf(file_, "%s %s %zu %g\n", name.c_str(), kind, values.size(), tolerance);
    written_ = std::fwrite(values.data(), 4, values.size(), file_) == values.size() && written_;
  }

  // Returns false if anything could not be written.
  bool close() {
    if (file_ == nullptr) return false;
    const bool closed = std::fclose(file_) == 0;
    file_ = nullptr;
    return closed && written_;
  }

 private:
  std::FILE* file_;
  bool written_ = true;
};

}  // namespace conformance
