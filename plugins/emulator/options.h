// How the emulator schedules threads and completes asynchronous operations.
#pragma once

#include <cstddef>
#include <cstdint>

namespace paro::emulator {

struct Options {
  // Asynchronous copies, TMA and wgmma complete as late as the ISA allows, and their destinations
  // are poison until then. Without this option they complete when they are issued.
  bool late = false;
  // If not zero, warps run ahead of each other and lanes run in random order, reproducibly.
  uint32_t seed = 0;
  // The number of OS threads that run blocks.
  int os_threads = 1;
  // The stack of one CUDA thread. An overflow hits a guard page, which is a segmentation fault.
  size_t stack_bytes = 128 << 10;
  // The registers that a thread starts with, for setmaxnreg. 0 means 65536 / threads, which ptxas
  // allots under __launch_bounds__(threads, 1).
  int registers_per_thread = 0;

  // Reads PARO_EMULATOR_LATE, _SEED, _THREADS, _STACK_KB and _REGISTERS. An unset or empty variable
  // keeps the default.
  static Options from_environment();
};

// The options of all later launches. They are read from the environment at the first use. Change
// them only while no launch is running.
Options& options();

}  // namespace paro::emulator
