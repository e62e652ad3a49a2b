#include "emulator/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(PARO_EMULATOR_UCONTEXT)
#if !defined(__x86_64__)
#error "Only x86-64 has an assembly context switch; define PARO_EMULATOR_UCONTEXT elsewhere."
#endif
// System V x86-64: only the callee-saved registers keep their values across a call. A new stack
// holds those six and the address of the start routine, which calls r13 with r12 as its argument.
extern "C" void paro_emulator_switch(void** save_stack_pointer, void* load_stack_pointer);
extern "C" void paro_emulator_start();
asm(R"(
.text
.hidden paro_emulator_switch
.globl paro_emulator_switch
.type paro_emulator_switch,@function
paro_emulator_switch:
  .cfi_startproc
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .cfi_endproc
.size paro_emulator_switch, .-paro_emulator_switch
.hidden paro_emulator_start
.globl paro_emulator_start
.type paro_emulator_start,@function
paro_emulator_start:
  .cfi_startproc
  .cfi_undefined rip
  movq %r12, %rdi
  callq *%r13
  ud2
  .cfi_endproc
.size paro_emulator_start, .-paro_emulator_start
)");
#endif

namespace paro::emulator {

void Fiber::announce_switch([[maybe_unused]] Fiber& next, [[maybe_unused]] bool leaving) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(leaving ? nullptr : &fake_stack_, next.stack_bottom_,
                                 next.stack_bytes_);
#endif
}

void Fiber::announce_arrival() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack_, &previous_->stack_bottom_, &previous_->stack_bytes_);
#endif
}

void Fiber::start(void* fiber) {
  auto* self = static_cast<Fiber*>(fiber);
  self->announce_arrival();
  self->entry_(self->argument_);
  std::abort();  // an entry must switch away, never return
}

#if defined(PARO_EMULATOR_UCONTEXT)

// makecontext can pass only ints.
void Fiber::start_from_halves(unsigned high, unsigned low) {
  const uintptr_t address = static_cast<uintptr_t>(static_cast<uint64_t>(high) << 32 | low);
  start(reinterpret_cast<void*>(address));
}

static void prepare_context(ucontext_t& context, void* stack, size_t bytes,
                            void (*start)(unsigned, unsigned), void* self) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = bytes;
  context.uc_link = nullptr;
  const uint64_t address = reinterpret_cast<uintptr_t>(self);
  makecontext(&context, reinterpret_cast<void (*)()>(start), 2,
              static_cast<unsigned>(address >> 32), static_cast<unsigned>(address));
}

#endif

void Fiber::prepare(void* stack, size_t stack_bytes, Entry entry, void* argument) {
  entry_ = entry;
  argument_ = argument;
  stack_bottom_ = stack;
  stack_bytes_ = stack_bytes;
  fake_stack_ = nullptr;
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(stack, stack_bytes);  // frames of a fiber that was abandoned
#endif
#if defined(PARO_EMULATOR_UCONTEXT)
  prepare_context(*context_, stack, stack_bytes, start_from_halves, this);
#else
  auto** top = reinterpret_cast<void**>(static_cast<std::byte*>(stack) + stack_bytes);
  *--top = nullptr;  // keeps the start routine's stack 16-byte aligned
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&paro_emulator_start);
  *--top = nullptr;                          // rbp
  *--top = nullptr;                          // rbx
  *--top = this;                             // r12
  *--top = reinterpret_cast<void*>(&start);  // r13
  *--top = nullptr;                          // r14
  *--top = nullptr;                          // r15
  stack_pointer_ = top;
#endif
}

void Fiber::switch_to(Fiber& next) {
  next.previous_ = this;
  announce_switch(next, false);
#if defined(PARO_EMULATOR_UCONTEXT)
  swapcontext(context_.get(), next.context_.get());
#else
  paro_emulator_switch(&stack_pointer_, next.stack_pointer_);
#endif
  announce_arrival();
}

void Fiber::leave_to(Fiber& next) {
  next.previous_ = this;
  announce_switch(next, true);
#if defined(PARO_EMULATOR_UCONTEXT)
  setcontext(next.context_.get());
#else
  paro_emulator_switch(&stack_pointer_, next.stack_pointer_);
#endif
  std::abort();  // something continued a fiber that had ended
}

StackPool::~StackPool() { release(); }

void StackPool::release() {
  if (memory_ != nullptr) munmap(memory_, count_ * bytes_);
  memory_ = nullptr;
  count_ = bytes_ = 0;
}

bool StackPool::reserve(size_t count, size_t bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  bytes = (bytes + page - 1) / page * page + page;
  if (count <= count_ && bytes == bytes_) return true;
  release();
  void* memory = mmap(nullptr, count * bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return false;
  memory_ = static_cast<std::byte*>(memory);
  count_ = count;
  bytes_ = bytes;
  for (size_t index = 0; index < count; index++) {
    mprotect(memory_ + index * bytes, page, PROT_NONE);
  }
  return true;
}

void* StackPool::stack(size_t index) const {
  return memory_ + index * bytes_ + static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace paro::emulator
