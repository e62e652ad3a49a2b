#include "memory.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace paro::trt::host {
namespace {

class HostMemory final : public Memory {
 public:
  void enter_thread() override {}
  void* allocate(size_t size) override { return Buffer(size).give_up(); }
  void release(void* data) override { std::free(data); }
  void copy_in(void* data, const void* host, size_t size) override {
    std::memcpy(data, host, size);
  }
  void copy_out(void* host, const void* data, size_t size) override {
    std::memcpy(host, data, size);
  }
  cudaStream_t create_stream() override { return nullptr; }
  void finish(cudaStream_t) override {}
};

// Loads the CUDA driver at run time, so that building the harness needs no CUDA.
class CudaMemory final : public Memory {
 public:
  CudaMemory() {
    int device = 0;
    check("cuInit", find<int (*)(unsigned)>("cuInit")(0));
    check("cuDeviceGet", find<int (*)(int*, int)>("cuDeviceGet")(&device, 0));
    check("cuDevicePrimaryCtxRetain",
          find<int (*)(void**, int)>("cuDevicePrimaryCtxRetain")(&context_, device));
    enter_thread();
  }
  void enter_thread() override { check("cuCtxSetCurrent", set_current_(context_)); }
  void* allocate(size_t size) override {
    uint64_t address = 0;
    check("cuMemAlloc", allocate_(&address, size));
    return reinterpret_cast<void*>(address);
  }
  void release(void* data) override { check("cuMemFree", release_(address_of(data))); }
  void copy_in(void* data, const void* host, size_t size) override {
    check("cuMemcpyHtoD", copy_in_(address_of(data), host, size));
  }
  void copy_out(void* host, const void* data, size_t size) override {
    check("cuMemcpyDtoH", copy_out_(host, address_of(data), size));
  }
  cudaStream_t create_stream() override {
    cudaStream_t stream = nullptr;
    constexpr unsigned kNonBlocking = 1;
    check("cuStreamCreate", create_stream_(&stream, kNonBlocking));
    return stream;
  }
  void finish(cudaStream_t stream) override { check("cuStreamSynchronize", finish_(stream)); }

 private:
  static void* load_driver() {
    void* const driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (driver == nullptr) throw std::runtime_error(dlerror());
    return driver;
  }

  template <class Function>
  Function find(const char* name) const {
    void* const address = dlsym(driver_, name);
    if (address == nullptr) throw std::runtime_error(std::string("no ") + name + " in libcuda");
    return reinterpret_cast<Function>(address);
  }

  static void check(const char* what, int error) {
    if (error == 0) return;
    throw std::runtime_error(std::string(what) + ": CUDA error " + std::to_string(error));
  }

  static uint64_t address_of(const void* data) { return reinterpret_cast<uint64_t>(data); }

  void* driver_ = load_driver();
  void* context_ = nullptr;
  int (*set_current_)(void*) = find<int (*)(void*)>("cuCtxSetCurrent");
  int (*allocate_)(uint64_t*, size_t) = find<int (*)(uint64_t*, size_t)>("cuMemAlloc_v2");
  int (*release_)(uint64_t) = find<int (*)(uint64_t)>("cuMemFree_v2");
  int (*copy_in_)(uint64_t, const void*,
                  size_t) = find<int (*)(uint64_t, const void*, size_t)>("cuMemcpyHtoD_v2");
  int (*copy_out_)(void*, uint64_t,
                   size_t) = find<int (*)(void*, uint64_t, size_t)>("cuMemcpyDtoH_v2");
  int (*create_stream_)(cudaStream_t*,
                        unsigned) = find<int (*)(cudaStream_t*, unsigned)>("cuStreamCreate");
  int (*finish_)(cudaStream_t) = find<int (*)(cudaStream_t)>("cuStreamSynchronize");
};

}  // namespace

std::unique_ptr<Memory> host_memory() { return std::make_unique<HostMemory>(); }

std::unique_ptr<Memory> cuda_memory() { return std::make_unique<CudaMemory>(); }

DeviceBuffer::DeviceBuffer(Memory& memory, size_t size)
    : memory_(memory), size_(size), data_(static_cast<std::byte*>(memory.allocate(size))) {}

DeviceBuffer::DeviceBuffer(Memory& memory, const Buffer& content)
    : DeviceBuffer(memory, content.size()) {
  memory_.copy_in(data_, content.data(), size_);
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) memory_.release(data_);
}

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : memory_(other.memory_), size_(other.size_), data_(std::exchange(other.data_, nullptr)) {}

Buffer DeviceBuffer::content() const {
  Buffer host(size_);
  memory_.copy_out(host.data(), data_, size_);
  return host;
}

Buffer poison(size_t size) {
  Buffer buffer(size);
  std::memset(buffer.data(), 0xff, size);
  return buffer;
}

}  // namespace paro::trt::host
