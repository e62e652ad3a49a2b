// The dynamic shared memory of a block and its 32-bit window, as cp.async, ldmatrix and TMA see it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "emulator/diagnosis.h"

namespace paro::emulator {

// What never-written bytes hold, so that reading them shows.
constexpr uint8_t poison_byte = 0xCB;

class SharedMemory {
 public:
  // First address of the window: not 0, so that a forgotten base address is out of bounds.
  static constexpr uint32_t window_base = 1024;

  explicit SharedMemory(size_t bytes);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  uint8_t* base() const { return base_; }
  size_t bytes() const { return bytes_; }
  // Fills memory and guards; done before every block.
  void poison();
  // False when plain stores went past either end. AddressSanitizer builds stop at the store.
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

// Host pointer of [address, address + bytes) of the running block's window; a diagnosis for
// `thread` (null: the running one) where that is out of bounds or misaligned.
uint8_t* shared_pointer(uint32_t address, size_t bytes, size_t alignment, const char* operation,
                        const Place& place, const Thread* thread = nullptr);

// Window address of a pointer into the dynamic shared memory.
uint32_t shared_address(const void* pointer, Place place = Place::current());

}  // namespace paro::emulator
