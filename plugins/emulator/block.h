// One running thread block: its threads, their shared state, and the scheduler.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <vector>

#include "emulator/async_copy.h"
#include "emulator/collectives.h"
#include "emulator/diagnosis.h"
#include "emulator/fiber.h"
#include "emulator/mbarrier.h"
#include "emulator/memory.h"
#include "emulator/named_barriers.h"
#include "emulator/options.h"
#include "emulator/register_file.h"
#include "emulator/stats.h"
#include "emulator/tma.h"
#include "emulator/wgmma.h"

namespace paro::emulator {

// What a suspended thread waits for; `format` prints the two values.
struct Wait {
  const char* operation = "";
  const char* format = "";
  unsigned values[2] = {};
  Place place;

  Wait() = default;
  Wait(const char* operation_, const char* format_, unsigned first, unsigned second,
       const Place& place_)
      : operation(operation_), format(format_), values{first, second}, place(place_) {}
};

struct Thread {
  enum class State { ready, waiting, done };

  Fiber fiber;
  uint3 index{};
  int linear = 0, warp = 0, lane = 0;
  State state = State::ready;
  Wait waits_for;
  AsyncCopies copies;
};

struct Warp {
  std::array<WarpRendezvous, 16> rendezvous;
};

struct Warpgroup {
  WarpgroupRendezvous rendezvous;
  WgmmaQueue wgmma;
};

struct BlockShape {
  dim3 grid, block;
  size_t shared_bytes;
  unsigned blocks_an_sm;
};

class Block {
 public:
  Block(const BlockShape& shape, const Options& options, StackPool& stacks);

  // Runs the kernel for the block at `index`; throws Failure on a diagnosis.
  void run(uint3 index, const std::function<void()>& kernel);

  // The running thread calls this to suspend itself until wake().
  void wait(const Wait& reason);
  void wake(Thread& thread) { thread.state = Thread::State::ready; }
  // The running thread calls this after it has let others continue. With a seed, the others may run
  // first, so that an action that comes too late has an effect.
  void preempt();
  // The running thread calls this to stop the whole block.
  [[noreturn]] void abandon(Diagnosis found);

  BlockShape shape;
  Options options;
  uint3 index{};
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<Warpgroup> warpgroups;
  SharedMemory shared;
  NamedBarriers barriers;
  MbarrierTable mbarriers;
  TransfersInFlight transfers;
  RegisterFile registers;
  Stats stats;
  std::mt19937 random;
  // Null while the scheduler runs.
  Thread* running = nullptr;

 private:
  static void thread_entry(void* thread);
  void prepare(uint3 index);
  bool run_round();
  bool run_warp_ahead(size_t warp);
  bool run_warp_once(size_t warp);
  void resume(Thread& thread);
  void check_thread_exit();
  void check_block_exit();
  [[noreturn]] void report_deadlock();

  StackPool& stacks_;
  const std::function<void()>* kernel_ = nullptr;
  Fiber scheduler_;
  size_t live_threads_ = 0;
  std::vector<size_t> warp_order_;
  std::optional<Diagnosis> found_;
};

// The block and the thread that run on this OS thread. Only valid inside a kernel.
Block& current_block();
Thread& current_thread();
bool inside_kernel();

}  // namespace paro::emulator
