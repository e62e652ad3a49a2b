// An execution context that can be suspended. Every CUDA thread has one, and so has the scheduler.
// Exceptions must not leave a fiber's entry, and nothing unwinds across a switch.
#pragma once

#include <cstddef>
#include <memory>

#if defined(PARO_EMULATOR_UCONTEXT)
#include <ucontext.h>
#endif

namespace paro::emulator {

class Fiber {
 public:
  using Entry = void (*)(void* argument);

  // Makes the next switch to this fiber call entry(argument), which must not return. The stack must
  // outlive the fiber. An earlier fiber may have been abandoned on the same stack.
  void prepare(void* stack, size_t stack_bytes, Entry entry, void* argument);

  // Suspends this fiber and continues `next`. Returns when something switches back.
  void switch_to(Fiber& next);
  // The same for a fiber that is never continued.
  [[noreturn]] void leave_to(Fiber& next);

 private:
  void announce_switch(Fiber& next, bool leaving);
  void announce_arrival();
  static void start(void* fiber);

  Entry entry_ = nullptr;
  void* argument_ = nullptr;
  Fiber* previous_ = nullptr;
  // For AddressSanitizer, which learns the scheduler's own stack at the first switch away from it.
  const void* stack_bottom_ = nullptr;
  size_t stack_bytes_ = 0;
  void* fake_stack_ = nullptr;
#if defined(PARO_EMULATOR_UCONTEXT)
  std::unique_ptr<ucontext_t> context_ = std::make_unique<ucontext_t>();
  static void start_from_halves(unsigned high, unsigned low);
#else
  void* stack_pointer_ = nullptr;
#endif
};

// Stacks of equal size, with a guard page below each. They live as long as the OS thread.
class StackPool {
 public:
  StackPool() = default;
  StackPool(const StackPool&) = delete;
  StackPool& operator=(const StackPool&) = delete;
  ~StackPool();

  // Makes at least `count` stacks of `bytes` available. Returns false if the system refuses.
  bool reserve(size_t count, size_t bytes);
  void* stack(size_t index) const;

 private:
  void release();

  std::byte* memory_ = nullptr;
  size_t count_ = 0, bytes_ = 0;
};

}  // namespace paro::emulator
