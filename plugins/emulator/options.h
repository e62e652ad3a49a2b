// How the emulator schedules threads and completes asynchronous operations.
#pragma once

#include <cstddef>
#include <cstdint>

namespace paro::emulator {

struct Options {
  // Asynchronous copies, TMA and wgmma land as late as the ISA allows; until then what they will
  // write is poison. Off: they land when issued.
  bool late = false;
  // Non-zero: warps run ahead of each other and lanes run in random order, reproducibly.
  uint32_t seed = 0;
  // Blocks run on this many OS threads.
  int os_threads = 1;
  // Stack of one CUDA thread. Overflow hits a guard page (a segmentation fault).
  size_t stack_bytes = 128 << 10;
  // Registers a thread starts with, for setmaxnreg; 0: 65536 / threads, as ptxas allots under
  // __launch_bounds__(threads, 1).
  int registers_per_thread = 0;

  // PARO_EMULATOR_LATE, _SEED, _THREADS, _STACK_KB, _REGISTERS; unset or empty keeps the default.
  static Options from_environment();
};

// The options of launches from now on; read from the environment at first use. Change them only
// while no launch is running.
Options& options();

}  // namespace paro::emulator
