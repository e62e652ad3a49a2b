#include "emulator/memory.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "emulator/block.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace paro::emulator {

#if !defined(__SANITIZE_ADDRESS__)
namespace {

constexpr uint8_t guard_byte = 0xA9;

bool all_guard(const uint8_t* begin, const uint8_t* end) {
  return std::all_of(begin, end, [](uint8_t byte) { return byte == guard_byte; });
}

}  // namespace
#endif

void SharedMemory::Release::operator()(uint8_t* memory) const { std::free(memory); }

SharedMemory::SharedMemory(size_t bytes) : bytes_(bytes) {
  // 1024-byte alignment, as DYN_SMEM declares it on a GPU.
  const size_t total = (guard_bytes + bytes + guard_bytes + 1023) / 1024 * 1024;
  memory_.reset(static_cast<uint8_t*>(std::aligned_alloc(1024, total)));
  if (!memory_) throw std::bad_alloc();
  base_ = memory_.get() + guard_bytes;
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(memory_.get(), guard_bytes);
  ASAN_POISON_MEMORY_REGION(base_ + bytes_, guard_bytes);
#endif
}

SharedMemory::~SharedMemory() {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(memory_.get(), guard_bytes + bytes_ + guard_bytes);
#endif
}

void SharedMemory::poison() {
  std::memset(base_, poison_byte, bytes_);
#if !defined(__SANITIZE_ADDRESS__)
  std::memset(base_ - guard_bytes, guard_byte, guard_bytes);
  std::memset(base_ + bytes_, guard_byte, guard_bytes);
#endif
}

bool SharedMemory::guards_intact() const {
#if defined(__SANITIZE_ADDRESS__)
  return true;
#else
  return all_guard(base_ - guard_bytes, base_) &&
         all_guard(base_ + bytes_, base_ + bytes_ + guard_bytes);
#endif
}

uint8_t* shared_pointer(uint32_t address, size_t bytes, size_t alignment, const char* operation,
                        const Place& place, const Thread* thread) {
  const SharedMemory& memory = current_block().shared;
  if (thread == nullptr) thread = current_block().running;
  const size_t offset = static_cast<size_t>(address) - SharedMemory::window_base;
  if (address < SharedMemory::window_base || offset + bytes > memory.bytes()) {
    fail_for(thread, Fault::shared_memory, operation, place,
             "%zu bytes at shared offset %td are outside the block's %zu bytes", bytes,
             static_cast<ptrdiff_t>(address) - SharedMemory::window_base, memory.bytes());
  }
  if (address % alignment != 0) {
    fail_for(thread, Fault::shared_memory, operation, place,
             "shared offset %zu is misaligned: %zu bytes are required", offset, alignment);
  }
  return memory.base() + offset;
}

uint32_t shared_address(const void* pointer, Place place) {
  const SharedMemory& memory = current_block().shared;
  const auto* byte = static_cast<const uint8_t*>(pointer);
  if (byte < memory.base() || byte > memory.base() + memory.bytes()) {
    fail(Fault::shared_memory, "cvta.to.shared", place, "the pointer is not into shared memory");
  }
  return SharedMemory::window_base + static_cast<uint32_t>(byte - memory.base());
}

}  // namespace paro::emulator
