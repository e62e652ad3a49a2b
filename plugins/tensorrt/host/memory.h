// The memory in which a plugin library's kernels compute: the host's, or a GPU's.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "../nv_infer.h"
#include "tensors.h"

namespace paro::trt::host {

class Memory {
 public:
  virtual ~Memory() = default;

  // Each thread that uses the memory must call this once.
  virtual void enter_thread() = 0;
  virtual void* allocate(size_t size) = 0;
  virtual void release(void* data) = 0;
  virtual void copy_in(void* data, const void* host, size_t size) = 0;
  virtual void copy_out(void* host, const void* data, size_t size) = 0;

  // A new stream, and waiting for the work that was launched in it.
  virtual cudaStream_t create_stream() = 0;
  virtual void finish(cudaStream_t stream) = 0;
};

// Throw std::runtime_error if the machine has no such memory.
std::unique_ptr<Memory> host_memory();
std::unique_ptr<Memory> cuda_memory();

// Owns one allocation.
class DeviceBuffer {
 public:
  DeviceBuffer(Memory& memory, size_t size);
  DeviceBuffer(Memory& memory, const Buffer& content);
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  std::byte* data() const { return data_; }
  Buffer content() const;

 private:
  Memory& memory_;
  size_t size_;
  std::byte* data_;
};

// A buffer with every byte 0xff, which reads as NaN in a float and as -1 in an index.
Buffer poison(size_t size);

}  // namespace paro::trt::host
