#include "emulator/diagnosis.h"

#include <cstdarg>
#include <cstdio>
#include <utility>

#include "emulator/block.h"

namespace paro::emulator {
namespace {

Diagnosis describe(const Thread* thread, Fault fault, const char* operation, const Place& place,
                   const char* format, va_list arguments) {
  char detail[512];
  std::vsnprintf(detail, sizeof detail, format, arguments);
  Diagnosis found{.fault = fault,
                  .block = current_block().index,
                  .operation = operation,
                  .file = place.file_name(),
                  .detail = detail,
                  .line = place.line()};
  if (thread != nullptr) {
    found.warp = thread->warp;
    found.lane = thread->lane;
  }
  return found;
}

// The scheduler may throw. A fiber must not unwind its stack, so it stops the block instead.
[[noreturn]] void stop(Diagnosis found) {
  Block& block = current_block();
  if (block.running == nullptr) throw Failure(std::move(found));
  block.abandon(std::move(found));
}

}  // namespace

const char* fault_name(Fault fault) {
  switch (fault) {
    case Fault::deadlock: return "deadlock";
    case Fault::divergence: return "divergence";
    case Fault::shared_memory: return "shared memory";
    case Fault::global_alignment: return "global alignment";
    case Fault::barrier: return "barrier";
    case Fault::mbarrier: return "mbarrier";
    case Fault::tensor_copy: return "tensor copy";
    case Fault::wgmma: return "wgmma";
    case Fault::registers: return "registers";
    case Fault::pending_at_exit: return "pending at exit";
    case Fault::launch: return "launch";
  }
  return "unknown";
}

std::string Diagnosis::message() const {
  std::string text = std::string("CUDA emulator: ") + fault_name(fault);
  if (fault != Fault::launch) {
    text += " in block (" + std::to_string(block.x) + "," + std::to_string(block.y) + "," +
            std::to_string(block.z) + ")";
  }
  if (warp >= 0) text += " warp " + std::to_string(warp) + " lane " + std::to_string(lane);
  if (!operation.empty()) text += ", " + operation;
  if (line > 0) text += " at " + file + ":" + std::to_string(line);
  return text + ": " + detail;
}

Failure::Failure(Diagnosis found)
    : std::runtime_error(found.message()), diagnosis_(std::move(found)) {}

void fail_for(const Thread* thread, Fault fault, const char* operation, const Place& place,
              const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  Diagnosis found = describe(thread, fault, operation, place, format, arguments);
  va_end(arguments);
  stop(std::move(found));
}

void fail(Fault fault, const char* operation, const Place& place, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  Diagnosis found = describe(current_block().running, fault, operation, place, format, arguments);
  va_end(arguments);
  stop(std::move(found));
}

}  // namespace paro::emulator
