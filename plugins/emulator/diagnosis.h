// The emulator's report of something that a GPU forbids, or that would make it hang.
#pragma once

#include <source_location>
#include <stdexcept>
#include <string>

#include "emulator/vector_types.h"

namespace paro::emulator {

// The place in the kernel's source where an operation was written. It is a default argument of
// every operation.
using Place = std::source_location;

enum class Fault {
  deadlock,          // no thread can run
  divergence,        // threads of one collective are in different ones
  shared_memory,     // outside the dynamic shared memory, or misaligned in it
  global_alignment,  // cp.async or TMA with a misaligned global address
  barrier,           // named barrier misuse: count, id, repeated arrival
  mbarrier,          // mbarrier misuse: not initialised, overwritten, too many arrivals
  tensor_copy,       // TMA with an illegal tensor map, coordinate or destination
  wgmma,             // descriptor, fence or register rule of wgmma broken
  registers,         // setmaxnreg beyond the rules or the register file
  pending_at_exit,   // a thread exits before its asynchronous operations finished
  launch,            // a grid, block or shared-memory size no GPU accepts
};

const char* fault_name(Fault fault);

struct Diagnosis {
  Fault fault;
  uint3 block{};
  // -1 if no single thread is at fault.
  int warp = -1, lane = -1;
  std::string operation, file, detail;
  unsigned line = 0;

  // One line: fault, block, warp, lane, operation, file:line, detail.
  std::string message() const;
};

// Thrown by emulator::launch on the host, never across a context switch.
class Failure : public std::runtime_error {
 public:
  explicit Failure(Diagnosis found);
  const Diagnosis& diagnosis() const { return diagnosis_; }

 private:
  Diagnosis diagnosis_;
};

// Records the diagnosis for the running thread and stops its block; does not return.
[[noreturn, gnu::format(printf, 4, 5)]] void fail(Fault fault, const char* operation,
                                                  const Place& place, const char* format, ...);

struct Thread;
// The same for a thread of the block that is not the running one.
[[noreturn, gnu::format(printf, 5, 6)]] void fail_for(const Thread* thread, Fault fault,
                                                      const char* operation, const Place& place,
                                                      const char* format, ...);

}  // namespace paro::emulator
