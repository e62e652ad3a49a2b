#include "emulator/launch.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <map>
#include <mutex>
#include <thread>

namespace paro::emulator {
namespace {

std::mutex shared_limit_lock;
std::map<const void*, size_t> shared_limits;

[[noreturn]] void refuse(std::string detail) {
  throw Failure({.fault = Fault::launch, .operation = {}, .file = {}, .detail = std::move(detail)});
}

void check_dimension(const char* name, unsigned value, unsigned limit) {
  if (value >= 1 && value <= limit) return;
  refuse(std::string(name) + " is " + std::to_string(value) + ", allowed is 1 to " +
         std::to_string(limit));
}

void check_shape(const LaunchShape& shape, size_t allowed_shared_bytes) {
  check_dimension("grid.x", shape.grid.x, 0x7FFFFFFFu);
  check_dimension("grid.y", shape.grid.y, 65535);
  check_dimension("grid.z", shape.grid.z, 65535);
  check_dimension("block.x", shape.block.x, 1024);
  check_dimension("block.y", shape.block.y, 1024);
  check_dimension("block.z", shape.block.z, 64);
  const uint64_t threads = uint64_t{shape.block.x} * shape.block.y * shape.block.z;
  if (threads > 1024 || threads % 32 != 0) {
    refuse("the block has " + std::to_string(threads) +
           " threads; a multiple of 32 up to 1024 is required");
  }
  if (shape.shared_bytes > allowed_shared_bytes) {
    refuse(std::to_string(shape.shared_bytes) + " bytes of dynamic shared memory exceed the " +
           std::to_string(allowed_shared_bytes) + " this kernel was granted");
  }
  if (shape.blocks_an_sm * (shape.shared_bytes + reserved_shared_bytes) > shared_bytes_an_sm) {
    refuse(std::to_string(shape.shared_bytes) +
           " bytes of dynamic shared memory leave no room for " +
           std::to_string(shape.blocks_an_sm) + " blocks an SM");
  }
}

// The blocks of a grid, handed out one by one to the workers.
class Grid {
 public:
  Grid(const LaunchShape& shape, const std::function<void()>& body) : shape_(shape), body_(body) {}

  uint64_t blocks() const { return uint64_t{shape_.grid.x} * shape_.grid.y * shape_.grid.z; }

  void work() noexcept {
    try {
      thread_local StackPool stacks;
      const size_t threads = size_t{shape_.block.x} * shape_.block.y * shape_.block.z;
      if (!stacks.reserve(threads, options().stack_bytes)) refuse("no memory for thread stacks");
      Block block({shape_.grid, shape_.block, shape_.shared_bytes, shape_.blocks_an_sm}, options(),
                  stacks);
      for (uint64_t i; (i = next_++) < blocks();) block.run(index(i), body_);
    } catch (...) {
      const std::lock_guard hold(error_lock_);
      if (!error_) error_ = std::current_exception();
      next_ = blocks();
    }
  }

  void rethrow_error() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  uint3 index(uint64_t linear) const {
    const uint64_t row = linear / shape_.grid.x;
    return {static_cast<unsigned>(linear % shape_.grid.x),
            static_cast<unsigned>(row % shape_.grid.y), static_cast<unsigned>(row / shape_.grid.y)};
  }

  const LaunchShape& shape_;
  const std::function<void()>& body_;
  std::atomic<uint64_t> next_{0};
  std::mutex error_lock_;
  std::exception_ptr error_;
};

}  // namespace

bool set_max_shared_bytes(const void* kernel, size_t bytes) {
  if (bytes > largest_shared_bytes) return false;
  const std::lock_guard hold(shared_limit_lock);
  shared_limits[kernel] = bytes;
  return true;
}

size_t max_shared_bytes(const void* kernel) {
  const std::lock_guard hold(shared_limit_lock);
  const auto found = shared_limits.find(kernel);
  return found == shared_limits.end() ? default_shared_bytes : found->second;
}

void run_grid(const LaunchShape& shape, size_t allowed_shared_bytes,
              const std::function<void()>& body) {
  check_shape(shape, allowed_shared_bytes);
  Grid grid(shape, body);
  const auto workers =
      std::min<uint64_t>(static_cast<uint64_t>(options().os_threads), grid.blocks());
  std::vector<std::thread> helpers;
  for (uint64_t i = 1; i < workers; i++) helpers.emplace_back([&] { grid.work(); });
  grid.work();
  for (std::thread& helper : helpers) helper.join();
  grid.rethrow_error();
}

}  // namespace paro::emulator
