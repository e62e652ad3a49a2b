// The dynamic shared memory of a block, and the 32-bit window through which cp.async, ldmatrix and
// TMA address it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "emulator/diagnosis.h"

namespace paro::emulator {

// The content of bytes that were never written, so that reading them changes results.
constexpr uint8_t poison_byte = 0xCB;

class SharedMemory {
 public:
  // The first address of the window. It is not 0, so that a missing base address is out of bounds.
  static constexpr uint32_t window_base = 1024;

  explicit SharedMemory(size_t bytes);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  uint8_t* base() const { return base_; }
  size_t bytes() const { return bytes_; }
  // Fills the memory and its guards. This runs before every block.
  void poison();
  // Returns false if plain stores went past either end. AddressSanitizer stops at the store itself.
  bool guards_intact() const;

 private:
  static constexpr size_t guard_bytes = 1024;

  struct Release {
    void operator()(uint8_t* memory) const;
  };
  std::unique_ptr<uint8_t, Release> memory_;
  uint8_t* base_;
  size_t bytes_;
};

struct Thread;

// The host pointer to [address, address + bytes) of the running block's window. If that is out of
// bounds or misaligned, there is a diagnosis for `thread` (null: the running one).
uint8_t* shared_pointer(uint32_t address, size_t bytes, size_t alignment, const char* operation,
                        const Place& place, const Thread* thread = nullptr);

// The window address of a pointer into the dynamic shared memory.
uint32_t shared_address(const void* pointer, Place place = Place::current());

}  // namespace paro::emulator
