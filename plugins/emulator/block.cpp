#include "emulator/block.h"

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <string>
#include <utility>

namespace paro::emulator {
namespace {

thread_local Block* active_block = nullptr;

struct Activation {
  explicit Activation(Block* block) : before(std::exchange(active_block, block)) {}
  ~Activation() { active_block = before; }
  Activation(const Activation&) = delete;
  Activation& operator=(const Activation&) = delete;
  Block* before;
};

std::string describe(const Wait& wait) {
  char values[96], text[256];
  std::snprintf(values, sizeof values, wait.format, wait.values[0], wait.values[1]);
  const std::string file = wait.place.file_name();
  std::snprintf(text, sizeof text, "%s (%s) at %s:%u", wait.operation, values,
                file.substr(file.find_last_of('/') + 1).c_str(), wait.place.line());
  return text;
}

}  // namespace

Block& current_block() { return *active_block; }
Thread& current_thread() { return *active_block->running; }
bool inside_kernel() { return active_block != nullptr && active_block->running != nullptr; }

Block::Block(const BlockShape& shape_, const Options& options_, StackPool& stacks)
    : shape(shape_),
      options(options_),
      threads(static_cast<size_t>(shape.block.x) * shape.block.y * shape.block.z),
      warps(threads.size() / 32),
      warpgroups((threads.size() + 127) / 128),
      shared(shape.shared_bytes),
      barriers(static_cast<int>(warps.size())),
      registers(0, 0),
      stacks_(stacks),
      warp_order_(warps.size()) {
  std::iota(warp_order_.begin(), warp_order_.end(), size_t{0});
}

void Block::prepare(uint3 new_index) {
  index = new_index;
  shared.poison();
  barriers.reset();
  mbarriers.clear();
  transfers.clear();
  const int count = static_cast<int>(threads.size());
  const int on_sm = count * static_cast<int>(shape.blocks_an_sm);
  registers =
      RegisterFile(count, options.registers_per_thread > 0 ? options.registers_per_thread
                                                           : RegisterFile::default_for(on_sm));
  stats = {};
  found_.reset();
  const uint64_t linear = index.x + static_cast<uint64_t>(shape.grid.x) *
                                        (index.y + static_cast<uint64_t>(shape.grid.y) * index.z);
  random.seed(options.seed + static_cast<uint32_t>(linear * 0x9E3779B9u));
  for (Warp& warp : warps) {
    for (WarpRendezvous& rendezvous : warp.rendezvous) rendezvous.arrived = 0;
  }
  for (Warpgroup& warpgroup : warpgroups) {
    warpgroup.rendezvous.arrived = 0;
    warpgroup.wgmma.reset();
  }
  for (unsigned i = 0; i < threads.size(); i++) {
    Thread& thread = threads[i];
    thread.linear = static_cast<int>(i);
    thread.warp = static_cast<int>(i / 32);
    thread.lane = static_cast<int>(i % 32);
    thread.index = {i % shape.block.x, i / shape.block.x % shape.block.y,
                    i / (shape.block.x * shape.block.y)};
    thread.state = Thread::State::ready;
    thread.copies = {};
    thread.fiber.prepare(stacks_.stack(i), options.stack_bytes, thread_entry, &thread);
  }
  live_threads_ = threads.size();
}

void Block::thread_entry(void* argument) {
  auto& thread = *static_cast<Thread*>(argument);
  Block& block = current_block();
  (*block.kernel_)();
  block.check_thread_exit();
  thread.state = Thread::State::done;
  block.live_threads_--;
  thread.fiber.leave_to(block.scheduler_);
}

void Block::run(uint3 new_index, const std::function<void()>& kernel) {
  const Activation activation(this);
  kernel_ = &kernel;
  prepare(new_index);
  while (live_threads_ > 0) {
    if (run_round()) continue;
    if (!transfers.land_one()) report_deadlock();
  }
  check_block_exit();
  add_to_stats(stats);
}

bool Block::run_round() {
  if (options.seed == 0) {
    bool progressed = false;
    for (size_t warp : warp_order_) progressed |= run_warp_once(warp);
    return progressed;
  }
  std::shuffle(warp_order_.begin(), warp_order_.end(), random);
  bool progressed = false;
  for (size_t warp : warp_order_) progressed |= run_warp_ahead(warp);
  if (!options.late && random() % 4 == 0) progressed |= transfers.land_one();
  return progressed;
}

// Runs a warp for a random number of steps before the next warp's turn, and every fourth time until
// it can run no further. A missing barrier has an effect only if one warp is far ahead of another.
bool Block::run_warp_ahead(size_t warp) {
  const bool to_the_end = random() % 4 == 0;
  unsigned steps = 1 + random() % 16;
  bool progressed = false;
  while ((to_the_end || steps-- > 0) && run_warp_once(warp)) progressed = true;
  return progressed;
}

bool Block::run_warp_once(size_t warp) {
  const unsigned flip = options.seed == 0 ? 0 : random() % 32;
  bool progressed = false;
  for (unsigned i = 0; i < 32; i++) {
    Thread& thread = threads[warp * 32 + (i ^ flip)];
    if (thread.state != Thread::State::ready) continue;
    resume(thread);
    progressed = true;
  }
  return progressed;
}

void Block::resume(Thread& thread) {
  running = &thread;
  stats.thread_switches++;
  scheduler_.switch_to(thread.fiber);
  running = nullptr;
  if (found_) throw Failure(std::move(*found_));
}

void Block::wait(const Wait& reason) {
  Thread& thread = *running;
  thread.state = Thread::State::waiting;
  thread.waits_for = reason;
  thread.fiber.switch_to(scheduler_);
}

void Block::preempt() {
  if (options.seed != 0 && random() % 2 == 0) running->fiber.switch_to(scheduler_);
}

void Block::abandon(Diagnosis found) {
  found_ = std::move(found);
  running->fiber.leave_to(scheduler_);
}

void Block::check_thread_exit() {
  const Thread& thread = *running;
  const char* unfinished = nullptr;
  if (!thread.copies.pending.empty()) unfinished = "cp.async copies";
  if (warpgroups[static_cast<size_t>(thread.linear / 128)].wgmma.has_pending()) {
    unfinished = "wgmma operations";
  }
  if (unfinished == nullptr) return;
  fail(Fault::pending_at_exit, "exit", Place(), "the thread exits without waiting for its %s",
       unfinished);
}

void Block::check_block_exit() {
  if (!transfers.empty()) {
    throw Failure({.fault = Fault::pending_at_exit,
                   .block = index,
                   .operation = "exit",
                   .file = {},
                   .detail = "bulk tensor loads are in flight after the last thread exited"});
  }
  if (!shared.guards_intact()) {
    throw Failure({.fault = Fault::shared_memory,
                   .block = index,
                   .operation = "store",
                   .file = {},
                   .detail = "bytes beyond the dynamic shared memory were written (build with "
                             "AddressSanitizer to see where)"});
  }
}

void Block::report_deadlock() {
  // Threads that wait for the same thing at the same place share one line.
  std::string detail;
  for (size_t first = 0; first < threads.size();) {
    size_t last = first;
    const auto reason = [&](size_t i) {
      return threads[i].state == Thread::State::done ? "have exited"
                                                     : "wait in " + describe(threads[i].waits_for);
    };
    const std::string text = reason(first);
    while (last + 1 < threads.size() && reason(last + 1) == text) last++;
    char line[400];
    std::snprintf(line, sizeof line,
                  "\n  threads %zu-%zu (warp %zu lane %zu to warp %zu lane %zu) %s", first, last,
                  first / 32, first % 32, last / 32, last % 32, text.c_str());
    detail += line;
    first = last + 1;
  }
  const auto stuck = std::find_if(threads.begin(), threads.end(), [](const Thread& thread) {
    return thread.state == Thread::State::waiting;
  });
  throw Failure({.fault = Fault::deadlock,
                 .block = index,
                 .warp = stuck->warp,
                 .lane = stuck->lane,
                 .operation = stuck->waits_for.operation,
                 .file = stuck->waits_for.place.file_name(),
                 .detail = "no thread can run:" + detail,
                 .line = stuck->waits_for.place.line()});
}

}  // namespace paro::emulator
